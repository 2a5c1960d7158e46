-- Names the replica that has probably seen the beginning of a request, for HAProxy (Lua 5.4).
--
-- What must be the same for requests to meet is, in this order: the session that the client names;
-- the first picture; the beginning of the conversation, which does not change as it grows. Always
-- with the account, since accounts share nothing. Each replica has a rank of its own for each of
-- these (rendezvous hashing), so that one that goes or comes moves its share only, and all
-- HAProxys agree; a request goes to the first in rank that has room.

local HEADER = "x-session-affinity"
-- Of a picture or a conversation, in bytes. Longer than what pictures of one origin have in common.
local BEGINNING = 16384
-- Of a prompt that is one text, which may be a conversation as well. What is shared of less is
-- computed in no time.
local SHORT = 1024
-- How many times the mean of open requests a replica may have to be followed, and how many are
-- nothing yet.
local ROOM, FEW = 1.25, 4

-- Quotes and brackets that are looked at, so that nobody's body keeps HAProxy busy: some 0.5 ms.
local STEPS = 4096

local ACCOUNT = "/(" .. string.rep("%x", 32) .. ")/"
local QUOTE, BACKSLASH = 34, 92
local PICTURES = { image = true, image_url = true, url = true, data = true }
local CONVERSATIONS = { messages = true, input = true }
local TEXTS = { prompt = true, input = true }

local steps = 0  -- left for this body

-- Where the JSON string that begins at `first` ends; nil if that has not been read.
local function string_end(body, first)
  local at = first
  repeat
    at = body:find('"', at + 1, true)
    steps = steps - 1
    if not at or steps < 0 then return nil end
    local escape = at - 1
    while body:byte(escape) == BACKSLASH do escape = escape - 1 end
  until (at - escape) % 2 == 1
  return at
end

-- `length` bytes from `first`, fewer if it ends before, at `last`; nil if they have not been read.
local function beginning(body, first, last, length)
  if last or #body - first >= length then
    return body:sub(first, math.min(last or #body, first + length - 1))
  end
end

-- How the picture begins whose field's value is at `first`: a text, or a list of numbers.
local function picture(body, first)
  local data, last
  if body:byte(first) == QUOTE then
    data, last = body:match('^"data:[^,"]*,()', first) or first + 1, string_end(body, first)
  elseif body:find("^%[%s*%d", first) then
    data, last = first, body:find("]", first, true)
  end
  if data and data ~= last then return beginning(body, data, last, BEGINNING) end
end

-- How the first picture in a request's body begins, else how its conversation does, up to the end
-- of the user's first message. nil if neither is found in what has been read.
local function seen(body)
  steps = STEPS
  local depth, at = 0, 1
  local pictured = body:find('"image', 1, true)
    or body:find('"url"', 1, true)
    or body:find('"data"', 1, true)
  local text, first, list, user
  while at and (pictured or not text) do
    local here, _, mark = body:find('(["{}%[%]])', at)
    steps = steps - 1
    if not here or steps < 0 then break end
    at = here + 1
    if mark == "{" or mark == "[" then
      depth = depth + 1
    elseif mark ~= '"' then
      depth = depth - 1
      if user and depth == list then text = text or beginning(body, first, here, BEGINNING) end
    else
      local last = string_end(body, here)
      if not last then break end
      at = last + 1
      local value = body:match("^%s*:%s*()", at)
      if value then
        local name, worded = body:sub(here + 1, last - 1), body:byte(value) == QUOTE
        local found = PICTURES[name] and picture(body, value)
        if found then return found end
        if depth == 1 and TEXTS[name] and worded then
          text = beginning(body, value, string_end(body, value), SHORT)
        elseif depth == 1 and CONVERSATIONS[name] then
          first, list = value, depth + 1
        elseif name == "role" and list == depth - 1 then
          user = user or body:find('^"user"', value)
        end
        at = worded and string_end(body, value)
        at = at and at + 1 or not worded and value
      end
    end
  end
  return text or first and beginning(body, first, nil, BEGINNING)
end

-- A finaliser of 64 bits: each bit of the key and of the replica's changes half of the rank's.
local function rank(key, replica)
  local x = key ~ replica
  x = (x ~ (x >> 30)) * 0xbf58476d1ce4e5b9
  x = (x ~ (x >> 27)) * 0x94d049bb133111eb
  return x ~ (x >> 31)
end

local hashes = {}  -- of the names of replicas

-- Of all replicas of the backend that are up, the first in rank that has room.
local function choose(txn, key, replicas)
  local loads, total, up = {}, 0, 0
  for name in replicas:gmatch("%S+") do
    if txn.f:srv_is_up(name) ~= 0 then
      loads[name] = txn.f:srv_conn(name)
      total, up = total + loads[name], up + 1
    end
  end
  -- Where no replica gets more than another, open requests still come and go by chance, and are
  -- mostly within the root of their mean from it.
  local mean = (total + 1) / up
  local room = math.max(FEW, ROOM * mean + math.sqrt(mean))
  local chosen, most
  for name, load in pairs(loads) do
    hashes[name] = hashes[name] or txn.c:xxh64(name)
    local mine = rank(key, hashes[name])
    if load + 1 <= room and (not chosen or mine > most) then chosen, most = name, mine end
  end
  return chosen
end

core.register_action("place", { "http-req" }, function(txn, replicas)
  local name = txn.sf:req_fhdr(HEADER)
  if name == "" then
    name = txn.sf:method() == "POST" and seen(txn.sf:req_body())
  end
  if not name then return end
  local account = txn.sf:path():match(ACCOUNT) or ""
  local chosen = choose(txn, txn.c:xxh64(account .. "/" .. name), replicas)
  if chosen then txn:set_var("txn.replica", chosen) end
end, 1)
