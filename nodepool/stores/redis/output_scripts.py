"""The Lua scripts of live output. All windows together are counted, so that all together have a bound.

A window is a hash of `base` (offset of the first byte kept) and `data`. Its size counts with what the server
keeps around it. Those without the first line of scripts.EVEN_WHEN_FULL get an error when the server is full.
"""

from __future__ import annotations

# Keys, fields and list entries of one window.
OVERHEAD_BYTES = 512

# KEYS: output, sizes, total, ended. ARGV: offset, data, window bytes, ttl, channel, message, attempt, room
# for all windows, overhead, 1 where others have made room already. Returns the end offset, or -1 where others
# must make room first; nothing has changed then. Overlap is dropped, a hole moves the base. A negative offset
# is the end, wherever it is by then. Of a full room each window has a share, and keeps its newest output.
APPEND_OUTPUT = """
local base = tonumber(redis.call('HGET', KEYS[1], 'base') or '-1')
local data = redis.call('HGET', KEYS[1], 'data') or ''
local offset, chunk = tonumber(ARGV[1]), ARGV[2]
if base < 0 then base = math.max(offset, 0) end
local finish = base + #data
if offset < 0 then offset = finish end
if redis.call('ZSCORE', KEYS[4], ARGV[7]) then return math.max(finish, offset + #chunk) end
if offset > finish then
  base = offset
  data = ''
elseif offset < finish then
  chunk = string.sub(chunk, finish - offset + 1)
end
if #chunk == 0 then return base + #data end
data = data .. chunk
local function keep(most)
  local cut = #data - math.max(0, math.floor(most))
  data = string.sub(data, cut + 1)
  base = base + cut
end
local window, overhead = tonumber(ARGV[3]), tonumber(ARGV[9])
if #data > window then keep(window / 2) end
local before = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[7]) or '0')
local room = tonumber(ARGV[8]) - tonumber(redis.call('GET', KEYS[3]) or '0') + before - overhead
if #data > room then
  if ARGV[10] ~= '1' then return -1 end
  local windows = redis.call('ZCARD', KEYS[2]) + (before > 0 and 0 or 1)
  local share = tonumber(ARGV[8]) / windows - overhead
  if #data > share then keep(share / 2) end
  if #data > room then keep(room) end
end
local size = #data + overhead
redis.call('HSET', KEYS[1], 'base', base, 'data', data)
redis.call('ZADD', KEYS[2], size, ARGV[7])
redis.call('INCRBY', KEYS[3], string.format('%d', size - before))
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[4]) end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return base + #data
"""

# KEYS: output, sizes, total. ARGV: attempt, the most bytes that are left, overhead. The newest stay.
CUT_OUTPUT = """
local before = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '0')
local base, data = unpack(redis.call('HMGET', KEYS[1], 'base', 'data'))
if not data then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('DECRBY', KEYS[3], string.format('%d', before))
  return 0
end
local cut = #data - tonumber(ARGV[2])
if cut <= 0 then return 0 end
redis.call('HSET', KEYS[1], 'base', tonumber(base) + cut, 'data', string.sub(data, cut + 1))
local size = #data - cut + tonumber(ARGV[3])
redis.call('ZADD', KEYS[2], size, ARGV[1])
redis.call('INCRBY', KEYS[3], string.format('%d', size - before))
return cut
"""

# KEYS: output, ended, and what else is kept of an attempt while it is live. ARGV: attempt, how long its
# output stays. Who comes late with more of it is not heard. Where nobody is there to forget it, it goes a
# little later by itself. Returns 0 where there is none.
END_OUTPUT = """
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 1 end
if redis.call('EXPIRE', KEYS[1], ARGV[2] + 25) == 0 then return 0 end
redis.call('ZADD', KEYS[2], tonumber(redis.call('TIME')[1]) + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[2], 60 + 2 * ARGV[2])
return 1
"""

# KEYS: ended. ARGV: how many at the most. Attempts whose output has stayed long enough.
DUE_OUTPUTS = """
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1], 'LIMIT', 0, ARGV[1])
"""

# KEYS: output, sizes, total, ended. ARGV: attempt.
FORGET_OUTPUT = """
local size = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '0')
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[3])
elseif size > 0 then
  redis.call('DECRBY', KEYS[3], string.format('%d', size))
end
return size
"""

# KEYS: output, sizes, total. ARGV: attempt, overhead, ttl. A window that is not counted yet, as of a version
# of the pool that did not count, is.
COUNT_OUTPUT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local size = redis.call('HSTRLEN', KEYS[1], 'data') + ARGV[2]
if redis.call('ZADD', KEYS[2], 'NX', size, ARGV[1]) == 0 then return 0 end
redis.call('INCRBY', KEYS[3], string.format('%d', size))
for i = 2, 3 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
return 1
"""
