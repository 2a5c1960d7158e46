-- Says when another try may help, where no replica has answered, for HAProxy (Lua 5.4).
--
-- Of an outage nothing is known but how long it has lasted, and from that the best guess is that it
-- lasts as long again. Clients that wait so long try less and less often, and when there is a
-- replica again they have waited at most twice as long as they had to.

-- In seconds; the most is for those who come after a long outage.
local LEAST, MOST = 1, 60

core.register_fetches("retry_after", function(txn)
  local backend = core.backends[txn.f:be_name()]
  local seen = backend and backend:get_stats()
  -- Of those that are up, another may answer at once.
  if not seen or seen.status == "UP" then return LEAST end
  return math.min(MOST, math.max(LEAST, seen.lastchg))
end)
