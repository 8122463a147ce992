"""The Lua scripts: every change of more than one Redis key is one of these, whole or not at all.

Keys are declared, so ACLs and a later cluster can reason about them; layout in docs/redis-keys.md.
"""

from __future__ import annotations

# KEYS: facts, reserved, assigned. ARGV: attempt id, entry JSON, then name/amount pairs.
# Returns "ok", "again" (this attempt has it already), "gone", "draining" or "full <resource>".
RESERVE = """
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return 'again' end
local facts = redis.call('HMGET', KEYS[1], 'draining', 'kind')
if not facts[2] then return 'gone' end
if facts[1] == '1' then return 'draining' end
for i = 3, #ARGV, 2 do
  local amount = tonumber(ARGV[i + 1])
  if amount > 0 then
    local capacity = tonumber(redis.call('HGET', KEYS[1], 'capacity_' .. ARGV[i]) or '0')
    local used = tonumber(redis.call('HGET', KEYS[2], ARGV[i]) or '0')
    if used + amount > capacity then return 'full ' .. ARGV[i] end
  end
end
for i = 3, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
return 'ok'
"""

# KEYS: reserved, assigned. ARGV: attempt id, then name/amount pairs. Returns 1 when it was there.
RELEASE = """
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
for i = 2, #ARGV, 2 do
  local left = redis.call('HINCRBY', KEYS[1], ARGV[i], -tonumber(ARGV[i + 1]))
  if left < 0 then redis.call('HSET', KEYS[1], ARGV[i], 0) end
end
return 1
"""

# KEYS: reserved, assigned. ARGV: count n, a Unix time, n sums as name/amount pairs, then attempt/entry
# pairs. Sets both to what SQL says. Entries that are there keep their time; those that SQL does not
# know and that are newer than the time stay and count, because their placement may be about to commit.
REBUILD = """
local n = tonumber(ARGV[1])
local kept_after = tonumber(ARGV[2])
local sums, want = {}, {}
for i = 3, 2 + 2 * n, 2 do sums[ARGV[i]] = tonumber(ARGV[i + 1]) end
for i = 3 + 2 * n, #ARGV, 2 do want[ARGV[i]] = ARGV[i + 1] end
local listed = redis.call('HGETALL', KEYS[2])
for i = 1, #listed, 2 do
  if not want[listed[i]] then
    local entry = cjson.decode(listed[i + 1])
    if entry.at > kept_after then
      for name, amount in pairs(entry.claim) do sums[name] = sums[name] + amount end
    else
      redis.call('HDEL', KEYS[2], listed[i])
    end
  end
end
for attempt, entry in pairs(want) do redis.call('HSETNX', KEYS[2], attempt, entry) end
redis.call('DEL', KEYS[1])
for name, sum in pairs(sums) do redis.call('HSET', KEYS[1], name, sum) end
return redis.status_reply('OK')
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

# KEYS: output. ARGV: offset, data, window bytes, ttl, channel, message. Returns {end offset}.
# A hash of base (offset of the first byte kept) and data; overlap is dropped, a hole moves the base.
APPEND_OUTPUT = """
local base = tonumber(redis.call('HGET', KEYS[1], 'base') or '-1')
local data = redis.call('HGET', KEYS[1], 'data') or ''
local offset = tonumber(ARGV[1])
local chunk = ARGV[2]
if base < 0 then base = offset end
local finish = base + #data
if offset > finish then
  base = offset
  data = ''
elseif offset < finish then
  chunk = string.sub(chunk, finish - offset + 1)
end
if #chunk > 0 then
  data = data .. chunk
  local window = tonumber(ARGV[3])
  if #data > window then
    local cut = #data - math.floor(window / 2)
    data = string.sub(data, cut + 1)
    base = base + cut
  end
  redis.call('HSET', KEYS[1], 'base', base, 'data', data)
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return base + #data
"""
