-- Ends with an error the stream of events whose server went before its end, for HAProxy (2.8).
--
-- That there was more to come is what the missing last chunk says. HAProxy by itself breaks off as
-- well; here the client is told what happened, in the words of the API.

local HOLE = "REQUEST"
-- A buffer that takes no more though it has this much room, in bytes, is not full: its server is
-- gone. HAProxy keeps 1024 for itself, and headers that are still there count as no data.
local ROOM = 4096
-- In these dialects every event has a name.
local NAMED = { messages = true, responses = true }
-- More bytes than any piece has.
local ALL = 0x7fffffff

local Truncation = { id = "truncation", flags = filter.FLT_CFG_FL_HTX }

-- One for each exchange.
function Truncation:new() return setmetatable({}, self) end

function Truncation:http_headers(txn, message)
  if not message.channel:is_resp() then
    self.named = NAMED[txn.sf:path():match("([^/]*)/?$")]
  elseif txn.sf:res_hdr("content-type") == "text/event-stream" then
    self.request = txn.sf:res_hdr("cf-ai-req-id")
    self.message = message
    filter.register_data_filter(self, message.channel)
  end
end

-- For streams whose server is gone.
function Truncation:http_payload(_, message)
  if message:input() + message:output() > self.size - ROOM then return end
  local event = self.named and "event: error\ndata: " or "data: "
  local told = self.told:gsub(HOLE, self.request)
  -- The blank line ends what may have come of an event.
  message:append("\n\n" .. event .. told .. "\n\n")
  message:set_eom()
end

core.register_filter("truncation", Truncation, function(class, arguments)
  class.told, class.size = arguments[1], tonumber(arguments[2])
  -- HAProxy looks for `http_payload` as each piece of a stream comes and goes: the hot path. To call
  -- a function it makes a dozen tables, which costs it as much CPU as all else it does for the
  -- piece; any other value it takes for what the function has returned, how many bytes may pass.
  -- What the client has yet to read may still be there when the server is gone: after it, HAProxy
  -- asks nobody if the last piece and the end came together.
  function class.__index(exchange, name)
    local message = name == "http_payload" and rawget(exchange, "message")
    if message and (message.channel:may_recv() or message:eom()) then return ALL end
    return class[name]
  end
  return class
end)
