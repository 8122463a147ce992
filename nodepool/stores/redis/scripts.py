"""The Lua scripts: every change of more than one Redis key is one of these, whole or not at all.

Keys are declared, so ACLs and a later cluster can reason about them; layout in docs/redis-keys.md.
"""

from __future__ import annotations

# First line of a script that is run also when the server's memory is full: what it writes is small, bounded,
# and what the pool lives from. Others get an error then.
EVEN_WHEN_FULL = "#!lua flags=allow-oom\n"

# KEYS: one. ARGV: a command, and what follows its key.
ONE_COMMAND = """
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
"""

# KEYS: facts, the set of nodes. ARGV: the node, the channel, then names and values in turn.
PUT_NODE = """
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
"""

# KEYS: reports. ARGV: the most bytes that one is read of. What is larger is not read, and its memory is
# somebody else's: only that its node was heard of stays, with its TTL.
EMPTY_LARGE_REPORTS = """
local emptied = 0
for _, name in ipairs(KEYS) do
  if redis.call('STRLEN', name) > tonumber(ARGV[1]) then
    redis.call('SET', name, '-', 'KEEPTTL')
    emptied = emptied + 1
  end
end
return emptied
"""

# Where the sums are lost, and not what they are of, they are made again: or a node would take too much.
_SUM_UP = """
local function sum_up(reserved, assigned)
  if redis.call('EXISTS', reserved) == 1 then return end
  local sums = {}
  for _, text in ipairs(redis.call('HVALS', assigned)) do
    for name, amount in pairs(cjson.decode(text).claim) do sums[name] = (sums[name] or 0) + amount end
  end
  for name, sum in pairs(sums) do redis.call('HSET', reserved, name, string.format('%d', sum)) end
end
"""

# KEYS: facts, reserved, assigned. ARGV: attempt id, entry JSON, the task's owner, 1 where a node that is on
# trial gets one task at a time, then name/amount pairs.
# Returns a RegistryAnswer: "ok", "again" (this attempt has it already), "gone", "draining", "owner only",
# "on trial" or "full <resource>". Facts without owner_only are of a version that knew no such nodes: its
# owner's tasks until they are renewed.
RESERVE = (
    _SUM_UP
    + """
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 'again' end
sum_up(KEYS[2], KEYS[3])
local wanted, capacities, names = {}, {'draining', 'kind', 'owner_only', 'owner', 'on_trial'}, {}
for i = 5, #ARGV, 2 do
  if tonumber(ARGV[i + 1]) > 0 then
    wanted[#wanted + 1] = tonumber(ARGV[i + 1])
    names[#names + 1] = ARGV[i]
    capacities[#capacities + 1] = 'capacity_' .. ARGV[i]
  end
end
local facts = redis.call('HMGET', KEYS[1], unpack(capacities))
if not facts[2] then return 'gone' end
if facts[1] == '1' then return 'draining' end
if facts[3] ~= '0' and facts[4] ~= ARGV[3] then return 'owner only' end
if ARGV[4] == '1' and facts[5] == '1' and redis.call('HLEN', KEYS[3]) > 0 then return 'on trial' end
local used = redis.call('HMGET', KEYS[2], unpack(names))
local sums = {}
for i = 1, #names do
  local sum = tonumber(used[i] or '0') + wanted[i]
  if sum > tonumber(facts[i + 5] or '0') then return 'full ' .. names[i] end
  sums[#sums + 1] = names[i]
  sums[#sums + 1] = sum
end
redis.call('HSET', KEYS[2], unpack(sums))
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return 'ok'
"""
)

# KEYS: reserved, assigned. ARGV: attempt id. Returns 1 when it was there. What is given back is what the
# entry says: an allocation may have changed since it was made.
RELEASE = (
    _SUM_UP
    + """
local text = redis.call('HGET', KEYS[2], ARGV[1])
if not text then return 0 end
sum_up(KEYS[1], KEYS[2])
redis.call('HDEL', KEYS[2], ARGV[1])
for name, amount in pairs(cjson.decode(text).claim) do
  local left = redis.call('HINCRBY', KEYS[1], name, string.format('%d', -amount))
  if left < 0 then redis.call('HSET', KEYS[1], name, 0) end
end
return 1
"""
)

# KEYS: facts, reserved, assigned. ARGV: attempt id and JSON of its new amounts, in turn. All of them or
# none: what some give up is room for the others. Returns "ok", "gone" or "full <resource>".
RESIZE = (
    _SUM_UP
    + """
sum_up(KEYS[2], KEYS[3])
local entries, changes = {}, {}
for i = 1, #ARGV, 2 do
  local text = redis.call('HGET', KEYS[3], ARGV[i])
  if not text then return 'gone' end
  local entry = cjson.decode(text)
  for name, amount in pairs(cjson.decode(ARGV[i + 1])) do
    changes[name] = (changes[name] or 0) + amount - entry.claim[name]
    entry.claim[name] = amount
  end
  entries[ARGV[i]] = cjson.encode(entry)
end
for name, more in pairs(changes) do
  if more > 0 then
    local capacity = tonumber(redis.call('HGET', KEYS[1], 'capacity_' .. name) or '0')
    local used = tonumber(redis.call('HGET', KEYS[2], name) or '0')
    if used + more > capacity then return 'full ' .. name end
  end
end
for name, more in pairs(changes) do redis.call('HINCRBY', KEYS[2], name, string.format('%d', more)) end
for attempt, entry in pairs(entries) do redis.call('HSET', KEYS[3], attempt, entry) end
return 'ok'
"""
)

# KEYS: facts, reserved, assigned. ARGV: a Unix time, a number of attempts that have ended, these, then
# attempt/entry pairs. Lists what SQL says, and sums up what is listed. Entries that are there keep their time
# and their allocation. Those of which SQL knows neither that they live nor that they have ended, and that are
# newer than the time, stay, because their placement may be about to commit. What does not fit (allocations
# had been taken back before Redis forgot them, or the node became smaller) is cut in proportion, where a task
# can live with less.
REBUILD = """
local kept_after = tonumber(ARGV[1])
local entries, sums, cut = {}, {}, {'cpu_score', 'memory_mb'}
local listed = redis.call('HGETALL', KEYS[3])
for i = 1, #listed, 2 do entries[listed[i]] = cjson.decode(listed[i + 1]) end
local wanted = {}
local first = 3 + tonumber(ARGV[2])
for i = 3, first - 1 do entries[ARGV[i]] = nil end
for i = first, #ARGV, 2 do
  wanted[ARGV[i]] = true
  entries[ARGV[i]] = entries[ARGV[i]] or cjson.decode(ARGV[i + 1])
end
for attempt, entry in pairs(entries) do
  if wanted[attempt] or entry.at > kept_after then
    for name, amount in pairs(entry.claim) do sums[name] = (sums[name] or 0) + amount end
  else
    entries[attempt] = nil
  end
end
for _, name in ipairs(cut) do
  local capacity = tonumber(redis.call('HGET', KEYS[1], 'capacity_' .. name) or '-1')
  if capacity >= 0 and (sums[name] or 0) > capacity then
    local sum = sums[name]
    sums[name] = 0
    for _, entry in pairs(entries) do
      entry.claim[name] = math.floor(entry.claim[name] * capacity / sum)
      sums[name] = sums[name] + entry.claim[name]
    end
  end
end
redis.call('DEL', KEYS[2], KEYS[3])
for attempt, entry in pairs(entries) do redis.call('HSET', KEYS[3], attempt, cjson.encode(entry)) end
for name, sum in pairs(sums) do redis.call('HSET', KEYS[2], name, string.format('%d', sum)) end
return redis.status_reply('OK')
"""

# KEYS: reports. ARGV: the most bytes that one is read of. Returns "<size>:<PTTL>" of each, comma separated,
# then each that is not larger; an empty one in place of one that is.
REPORTS = """
local facts, found = {}, {''}
for i, name in ipairs(KEYS) do
  local size = redis.call('STRLEN', name)
  facts[i] = size .. ':' .. redis.call('PTTL', name)
  found[i + 1] = size <= tonumber(ARGV[1]) and redis.call('GET', name) or ''
end
found[1] = table.concat(facts, ',')
return found
"""

# KEYS: assigned. ARGV: attempt id. Only where it still is.
MARK_STOP = """
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return 0 end
local entry = cjson.decode(text)
entry.stop = true
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(entry))
return 1
"""

# KEYS: one counter a window. ARGV: the window's length in seconds, and the most. Counts one more in each of
# them and returns 0, or counts none and returns after how many seconds the fullest begins anew.
COUNT_IN_WINDOWS = """
local wait = 0
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') >= tonumber(ARGV[2]) then
    wait = math.max(wait, redis.call('TTL', key), 1)
  end
end
if wait > 0 then return wait end
for _, key in ipairs(KEYS) do
  if redis.call('INCR', key) == 1 or redis.call('TTL', key) < 0 then
    redis.call('EXPIRE', key, ARGV[1])
  end
end
return 0
"""

# KEYS: counters that were counted in. One less of each.
GIVE_BACK = """
for _, key in ipairs(KEYS) do
  if tonumber(redis.call('GET', key) or '0') > 0 then redis.call('DECR', key) end
end
return 0
"""

# KEYS: a counter for each bucket. ARGV: what is added to each, then how long they live. Returns the sums.
ADD_TO_COUNTERS = """
local sums = {}
for i, key in ipairs(KEYS) do
  sums[i] = redis.call('INCRBY', key, ARGV[i])
  redis.call('EXPIRE', key, ARGV[#KEYS + 1])
end
return sums
"""
