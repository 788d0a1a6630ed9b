#!lua name=busbar_v1
-- The part of the store that runs inside Redis: units of guards and writes, leases, and payloads that grow.
--
-- One call of busbar_v1_admit or busbar_v1_advance carries many units as flat arguments:
--
--   unit:  commit id (16 bytes) | subject key or '' | number of arguments of the unit, these three included | guards | writes
--   guard or write:  one letter | its arguments (SIZE says how many arguments there are, the letter included)
--
-- Each unit is atomic alone: every guard is judged and the type of every key that is written is checked before the first write;
-- after that nothing can fail. Each unit is answered alone:
--
--   ''  applied      'ms-seq'  applied, cursor of the last log entry      '='  applied before      '!...'  refused, why
--   2n  the revision guard in place n does not hold        2n+1  another guard in place n does not hold
--
-- A record is a string: revision (8 bytes, big endian) | commit id (16 bytes) | value. The client packs it: Lua only compares bytes.
-- Raise REVISION with every change: clients replace an older library and leave a newer one alone.
local REVISION = 4

-- Nothing of this exists yet while the library is loaded: the first call binds it.
local call, sub, find, match, format, floor, ceil, min, max
-- What one call has learnt: the type of a key and the unit that asked for it, the unit that filled a string, the unit that writes a
-- payload over whatever stands there, epochs, the time.
local kinds, stamps, filled, replaced, epochs, clock
-- The unit at hand: its number, its subject and the first 24 bytes of that, what it takes out of buckets, its last cursor.
local stamp, subject, head, taken, appended

local function begin()
  if not call then
    call = redis.call
    sub, find, match, format = string.sub, string.find, string.match, string.format
    floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
  end
  kinds, stamps, filled, replaced, epochs, clock, stamp = {}, {}, {}, {}, {}, nil, 0
end

local function raise(text)
  error({ err = text })
end

local function now()
  if not clock then
    local time = call('TIME')
    clock = time[1] * 1000 + floor(time[2] / 1000)
  end
  return clock
end

-- Whole numbers below 17 digits: exact in Lua, and far from where INCRBY overflows.
local function counter(key)
  local text = call('GET', key)
  if not text then
    return 0
  end
  if #text > 16 or not (find(text, '^-?[1-9]%d*$') or text == '0') then
    raise('WRONGTYPE ' .. key .. ' is not a counter')
  end
  return tonumber(text)
end

-- Refuses the unit unless the key is free or of this kind. What this unit itself makes of a free key counts as its kind.
local function demand(key, kind)
  if replaced[key] == stamp then
    if kind ~= 'string' then
      raise('WRONGTYPE ' .. key .. ' is not a ' .. kind)
    end
  elseif kinds[key] ~= kind then
    local found = call('TYPE', key).ok
    if found ~= kind and (found ~= 'none' or stamps[key] == stamp) then
      raise('WRONGTYPE ' .. key .. ' is not a ' .. kind)
    end
    kinds[key] = kind
  end
  stamps[key] = stamp
end

-- How many thousandths of a token the bucket holds now.
local function level(key, per_second, full)
  if taken and taken[key] then
    return taken[key].left
  end
  local state = call('GET', key)
  if not state then
    return full
  end
  local left, at = match(state, '^(%d+):(%d+)$')
  if not left then
    raise('WRONGTYPE ' .. key .. ' is not a token bucket')
  end
  return min(full, left + max(0, now() - at) * per_second)
end

local function take(key, per_second, full, cost)
  local left = level(key, per_second, full)
  if left < cost then
    return false
  end
  kinds[key], stamps[key], filled[key] = 'string', stamp, stamp
  taken = taken or {}
  taken[key] = { left = left - cost, full = full, per_second = per_second }
  return true
end

-- A bucket is forgotten when it is full again: a missing one is full.
local function settle_buckets()
  for key, bucket in pairs(taken) do
    if bucket.left < bucket.full then
      local state = format('%d:%d', bucket.left, now())
      if bucket.per_second > 0 then
        call('SET', key, state, 'PX', format('%d', ceil((bucket.full - bucket.left) / bucket.per_second)))
      else
        call('SET', key, state)
      end
    end
  end
end

local SIZE = {
  e = 3, r = 2, R = 3, a = 2, x = 2, c = 3, b = 5,
  p = 2, q = 3, P = 3, Q = 4, d = 2, z = 4, Z = 3, t = 3, l = 4, n = 3, v = 3, V = 4, k = 2, E = 3, y = 3, Y = 4,
}

local CONFLICT = { r = true, R = true }

local GUARD = {
  e = function(A, i) -- lock, epoch
    local lock = A[i + 1]
    local epoch = epochs[lock]
    if not epoch then
      epoch = call('HGET', lock, 'epoch')
      epochs[lock] = epoch
    end
    return epoch == A[i + 2]
  end,
  r = function(A, i) -- revision of the subject
    return sub(head, 1, 8) == A[i + 1]
  end,
  R = function(A, i) -- key, revision
    return call('GETRANGE', A[i + 1], '0', '7') == A[i + 2]
  end,
  a = function(A, i) -- key that is absent
    return call('EXISTS', A[i + 1]) == 0
  end,
  x = function(A, i) -- key that exists
    return call('EXISTS', A[i + 1]) == 1
  end,
  c = function(A, i) -- counter, bound
    return counter(A[i + 1]) < tonumber(A[i + 2])
  end,
  b = function(A, i) -- bucket, tokens a second, burst, cost
    return take(A[i + 1], tonumber(A[i + 2]), A[i + 3] * 1000, A[i + 4] * 1000)
  end,
}

local function demand_zset(A, i)
  demand(A[i + 1], 'zset')
end

-- What is put or copied is no counter: a unit that fills a key and counts in it afterwards is refused.
local function demand_put(A, i)
  demand(A[i + 1], 'string')
  filled[A[i + 1]] = stamp
end

local function demand_put_subject()
  filled[subject] = stamp
end

-- A payload replaces what stands there, whatever that is, so that nobody has to ask.
local function demand_payload(A, i)
  filled[A[i + 1]], replaced[A[i + 1]] = stamp, stamp
end

local function demand_copy(A, i)
  demand(A[i + 2], 'string')
  filled[A[i + 2]] = stamp
end

local function demand_count(A, i)
  demand(A[i + 1], 'string')
  if filled[A[i + 1]] == stamp then
    raise('WRONGTYPE ' .. A[i + 1] .. ' is not a counter')
  end
  counter(A[i + 1])
end

local function demand_stream(A, i)
  demand(A[i + 1], 'stream')
end

local function demand_nothing() end

local CHECK = {
  p = demand_put_subject, q = demand_put_subject, P = demand_put, Q = demand_put, d = demand_nothing,
  z = demand_zset, Z = demand_zset, t = demand_zset, l = demand_stream, n = demand_count,
  v = demand_payload, V = demand_payload, k = demand_nothing, E = demand_nothing, y = demand_copy, Y = demand_copy,
}

-- Says whether there is something to expire afterwards. What is no string is no payload, whoever left it there.
local function copy(from, to)
  if from == to then
    return true
  end
  if call('TYPE', from).ok ~= 'string' then
    return false
  end
  call('COPY', from, to, 'REPLACE')
  return true
end

local APPLY = {
  p = function(A, i) -- value of the subject
    call('SET', subject, A[i + 1])
  end,
  q = function(A, i) -- value of the subject, milliseconds
    call('SET', subject, A[i + 1], 'PX', A[i + 2])
  end,
  P = function(A, i) -- key, value
    call('SET', A[i + 1], A[i + 2])
  end,
  Q = function(A, i) -- key, value, milliseconds
    call('SET', A[i + 1], A[i + 2], 'PX', A[i + 3])
  end,
  d = function(A, i) -- key
    local key = A[i + 1]
    call('DEL', key)
    kinds[key], epochs[key] = nil, nil
  end,
  z = function(A, i) -- index, score, member
    call('ZADD', A[i + 1], A[i + 2], A[i + 3])
  end,
  Z = function(A, i) -- index, member
    call('ZREM', A[i + 1], A[i + 2])
  end,
  t = function(A, i) -- index, exclusive bound
    call('ZREMRANGEBYSCORE', A[i + 1], '-inf', A[i + 2])
  end,
  l = function(A, i) -- log, entries to keep, value
    appended = call('XADD', A[i + 1], 'MAXLEN', '~', A[i + 2], '*', 'v', A[i + 3])
  end,
  n = function(A, i) -- counter, addend
    call('INCRBY', A[i + 1], A[i + 2])
  end,
  v = function(A, i) -- key, bytes
    call('SET', A[i + 1], A[i + 2])
    kinds[A[i + 1]], epochs[A[i + 1]] = 'string', nil
  end,
  V = function(A, i) -- key, bytes, milliseconds
    call('SET', A[i + 1], A[i + 2], 'PX', A[i + 3])
    kinds[A[i + 1]], epochs[A[i + 1]] = 'string', nil
  end,
  k = function(A, i) -- key
    call('PERSIST', A[i + 1])
  end,
  E = function(A, i) -- key, milliseconds
    call('PEXPIRE', A[i + 1], A[i + 2])
  end,
  y = function(A, i) -- from, to
    if copy(A[i + 1], A[i + 2]) then
      call('PERSIST', A[i + 2])
    end
  end,
  Y = function(A, i) -- from, to, milliseconds
    if copy(A[i + 1], A[i + 2]) then
      call('PEXPIRE', A[i + 2], A[i + 3])
    end
  end,
}

-- Returns where the writes begin, or nothing and the answer.
local function judge(A, i, stop)
  local place = 0
  while i < stop do
    local letter = A[i]
    local guard = GUARD[letter]
    if not guard then
      return i
    end
    if not guard(A, i) then
      return nil, 2 * place + (CONFLICT[letter] and 0 or 1)
    end
    i = i + SIZE[letter]
    place = place + 1
  end
  return i
end

local function check(A, i, stop)
  while i < stop do
    local letter = A[i]
    local verify = CHECK[letter]
    if not verify then
      raise('ERR unknown operation in a unit: the library is too old for this client')
    end
    verify(A, i)
    i = i + SIZE[letter]
  end
end

local function apply(A, i, stop)
  if taken then
    settle_buckets()
  end
  while i < stop do
    local letter = A[i]
    APPLY[letter](A, i)
    i = i + SIZE[letter]
  end
end

local function unit(A, i, stop)
  stamp = stamp + 1
  subject, taken, appended = A[i + 1], nil, nil
  if subject ~= '' then
    head = call('GETRANGE', subject, '0', '23')
    if sub(head, 9, 24) == A[i] then
      return '='
    end
    kinds[subject], stamps[subject] = 'string', stamp
  end
  local writes, answer = judge(A, i + 3, stop)
  if answer then
    return answer
  end
  check(A, writes, stop)
  apply(A, writes, stop)
  return appended or ''
end

local function commit(_, A)
  begin()
  local answers, count, i, last = {}, 0, 1, #A
  while i <= last do
    local stop = i + tonumber(A[i + 2])
    local fine, answer = pcall(unit, A, i, stop)
    if not fine then
      answer = '!' .. tostring(type(answer) == 'table' and answer.err or answer)
    end
    count = count + 1
    answers[count] = answer
    i = stop
  end
  return answers
end

-- Arguments: lock, owner, milliseconds. Answers: held (1 or 0), epoch, milliseconds that are left, owner.
local function lease(_, A)
  begin()
  local lock, owner, ttl = A[1], A[2], tonumber(A[3])
  local had = call('HMGET', lock, 'owner', 'epoch', 'until')
  local epoch, left = tonumber(had[2] or 0), tonumber(had[3] or 0) - now()
  if had[1] and had[1] ~= owner and left > 0 then
    return { 0, epoch, left, had[1] }
  end
  if had[1] ~= owner then
    epoch = epoch + 1
  end
  call('HSET', lock, 'owner', owner, 'epoch', format('%d', epoch), 'until', format('%d', now() + ttl))
  return { 1, epoch, ttl, owner }
end

-- Arguments: lock, owner. The epoch stays, so that it never comes twice.
local function release(_, A)
  begin()
  if call('HGET', A[1], 'owner') == A[2] then
    call('HDEL', A[1], 'owner', 'until')
  end
  return ''
end

-- Arguments: key, bytes, milliseconds or '' for ever; and the same of each further payload. Each is answered alone.
local function put(_, A)
  begin()
  local answers = {}
  for i = 1, #A, 3 do
    if A[i + 2] == '' then
      call('SET', A[i], A[i + 1])
    else
      call('SET', A[i], A[i + 1], 'PX', A[i + 2])
    end
    answers[#answers + 1] = ''
  end
  return answers
end

-- Arguments: key, bytes, most bytes, milliseconds.
local function append_payload(_, A)
  begin()
  local room = tonumber(A[3]) - call('STRLEN', A[1])
  if room > 0 and #A[2] > 0 then
    call('APPEND', A[1], sub(A[2], 1, room))
  end
  call('PEXPIRE', A[1], A[4])
  return ''
end

redis.register_function('busbar_v1_admit', commit)
redis.register_function('busbar_v1_append_payload', append_payload)
redis.register_function('busbar_v1_put_payloads', put)
-- What finishes work that is there is written even when memory is short. Clients of revision 2 write one result with the second.
redis.register_function({ function_name = 'busbar_v1_put_results', callback = put, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'busbar_v1_put_result', callback = put, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'busbar_v1_advance', callback = commit, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'busbar_v1_lease', callback = lease, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'busbar_v1_release', callback = release, flags = { 'allow-oom' } })
