#!lua name=busbar_v2
-- The part of the store that runs inside Redis: units of guards and writes, leases, and payloads that grow.
--
-- One call of busbar_v2_admit or busbar_v2_advance carries many units as flat arguments, in groups that share what all of them name:
--
--   group:  how many names | how many units | names | units
--   unit:   plan | commit id (16 bytes) | operands of its own
--   plan:   how many operands of its own | place of the subject's key or 0 | guards | writes
--   guard or write:  one letter | a place for each of its operands (ARITY says how many)
--
-- Numbers and places in a plan have two bytes, big endian. A place is that of an operand of the unit, from 1 on; with the highest bit set,
-- that of a name of the group. Units of one kind have one plan, so that it is read once for all of them.
--
-- Each unit is atomic alone: every guard is judged and the type of every key that is written is checked before the first write;
-- after that nothing can fail. What is put for ever, and what changes in indexes, is gathered, and written by one command for many units:
-- at the end of the call, or before anything else is done with the key. Each unit is answered alone:
--
--   ''  applied      'ms-seq'  applied, cursor of the last log entry      '='  applied before      '!...'  refused, why
--   2n  the revision guard in place n does not hold        2n+1  another guard in place n does not hold
--
-- A record is a string: revision (8 bytes, big endian) | commit id (16 bytes) | value. The client packs it: Lua only compares bytes.
-- Raise REVISION with every change: clients replace an older library and leave a newer one alone.
local REVISION = 2

-- Nothing of this exists yet while the library is loaded: the first call binds it.
local call, sub, byte, find, match, format, concat, floor, ceil, min, max
-- The most operands of a command for many units: Lua's stack has room for 8,000.
local GATHERED_MAX = 4000
-- What one call has learnt: the type of a key and the unit that asked for it, the unit that filled a string, the unit that writes a
-- payload over whatever stands there, epochs, the time.
local kinds, stamps, filled, replaced, epochs, clock
-- What is gathered: keys and values, and how many these are; and by key whether it is among them, or how an index changes.
local puts, put_count, gathered
-- How much each log was cut down to in this call.
local cut
-- The unit at hand: its number, its subject and the first 24 bytes of that, what it takes out of buckets, its last cursor.
local stamp, subject, head, taken, appended

local function begin()
  if not call then
    call = redis.call
    sub, byte, find, match, format = string.sub, string.byte, string.find, string.match, string.format
    concat = table.concat
    floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
  end
  kinds, stamps, filled, replaced, epochs, clock, stamp = {}, {}, {}, {}, {}, nil, 0
  puts, put_count, gathered, cut = {}, 0, {}, {}
end

local function write_puts()
  call('MSET', unpack(puts, 1, put_count))
  for n = 1, put_count, 2 do
    gathered[puts[n]] = nil
  end
  puts, put_count = {}, 0
end

local function write_changes(index, changes)
  call(changes.command, index, unpack(changes, 1, changes.count))
  gathered[index] = nil
end

-- What was gathered for the key stands there from now on.
local function settle(key)
  local changes = gathered[key]
  if changes == true then
    write_puts()
  elseif changes then
    write_changes(key, changes)
  end
end

local function settle_all()
  if put_count > 0 then
    write_puts()
  end
  for index, changes in pairs(gathered) do
    write_changes(index, changes)
  end
end

-- Something of any type stands there now, or nothing. A table grows by a key that is nil, too.
local function forget(key)
  if kinds[key] then
    kinds[key] = nil
  end
  if epochs[key] then
    epochs[key] = nil
  end
end

local function gather_put(key, value)
  put_count = put_count + 2
  puts[put_count - 1], puts[put_count], gathered[key] = key, value, true
  if put_count >= GATHERED_MAX then
    write_puts()
  end
end

-- Has room for one more change of an index; changes of the other kind are written before.
local function changes_of(index, command)
  local changes = gathered[index]
  if not changes or changes.command ~= command or changes.count >= GATHERED_MAX then
    settle(index)
    changes = { command = command, count = 0 }
    gathered[index] = changes
  end
  return changes
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
  settle(key)
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
  if key == subject or replaced[key] == stamp then
    if kind ~= 'string' then
      raise('WRONGTYPE ' .. key .. ' is not a ' .. kind)
    end
    return
  end
  if kinds[key] ~= kind then
    settle(key)
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
  settle(key)
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
  if not taken then
    return
  end
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

local GUARD = {
  e = function(lock, wanted)
    local epoch = epochs[lock]
    if not epoch then
      settle(lock)
      epoch = call('HGET', lock, 'epoch')
      epochs[lock] = epoch
    end
    return epoch == wanted
  end,
  r = function(revision) -- of the subject
    return sub(head, 1, 8) == revision
  end,
  R = function(key, revision)
    settle(key)
    return call('GETRANGE', key, '0', '7') == revision
  end,
  new = function() -- the subject is absent, or an empty payload
    return head == ''
  end,
  a = function(key) -- absent
    settle(key)
    return call('EXISTS', key) == 0
  end,
  x = function(key) -- there
    settle(key)
    return call('EXISTS', key) == 1
  end,
  c = function(key, bound)
    return counter(key) < tonumber(bound)
  end,
  b = function(key, per_second, burst, cost)
    return take(key, tonumber(per_second), burst * 1000, cost * 1000)
  end,
}

local function check_index(index)
  demand(index, 'zset')
end

local function check_put(key)
  demand(key, 'string')
end

-- A payload replaces what stands there, whatever that is, so that nobody has to ask.
local function check_payload(key)
  replaced[key] = stamp
end

local function check_copy(_, to)
  demand(to, 'string')
end

-- What is put or copied is no counter: a unit that fills a key and counts in it afterwards is refused.
local function check_filled(key)
  filled[key] = stamp
end

local function check_count(key)
  demand(key, 'string')
  if filled[key] == stamp then
    raise('WRONGTYPE ' .. key .. ' is not a counter')
  end
  counter(key)
end

local function check_log(log)
  demand(log, 'stream')
end

local CHECK = {
  P = check_put, Q = check_put, filled = check_filled,
  z = check_index, Z = check_index, t = check_index, l = check_log, n = check_count,
  v = check_payload, V = check_payload, y = check_copy, Y = check_copy,
}

-- Says whether there is something to expire afterwards. What is no string is no payload, whoever left it there.
local function copy(from, to)
  settle(from)
  if from == to then
    return true
  end
  settle(to)
  if call('TYPE', from).ok ~= 'string' then
    return false
  end
  call('COPY', from, to, 'REPLACE')
  return true
end

local APPLY = {
  p = function(value) -- of the subject
    gather_put(subject, value)
  end,
  q = function(value, ms) -- of the subject
    settle(subject)
    call('SET', subject, value, 'PX', ms)
  end,
  P = gather_put,
  Q = function(key, value, ms)
    settle(key)
    call('SET', key, value, 'PX', ms)
  end,
  d = function(key)
    settle(key)
    call('DEL', key)
    forget(key)
  end,
  z = function(index, score, member)
    local changes = changes_of(index, 'ZADD')
    local count = changes.count + 2
    changes[count - 1], changes[count], changes.count = score, member, count
  end,
  Z = function(index, member)
    local changes = changes_of(index, 'ZREM')
    changes.count = changes.count + 1
    changes[changes.count] = member
  end,
  t = function(index, bound) -- exclusive
    settle(index)
    call('ZREMRANGEBYSCORE', index, '-inf', bound)
  end,
  l = function(log, keep, value)
    if cut[log] == keep then
      appended = call('XADD', log, '*', 'v', value)
    else
      appended = call('XADD', log, 'MAXLEN', '~', keep, '*', 'v', value)
      cut[log] = keep
    end
  end,
  n = function(key, by)
    call('INCRBY', key, by)
  end,
  v = function(key, bytes)
    settle(key)
    gather_put(key, bytes)
    forget(key)
  end,
  V = function(key, bytes, ms)
    settle(key)
    call('SET', key, bytes, 'PX', ms)
    forget(key)
  end,
  k = function(key) -- what is gathered for it does not expire either
    call('PERSIST', key)
  end,
  E = function(key, ms)
    settle(key)
    call('PEXPIRE', key, ms)
  end,
  y = function(from, to)
    if copy(from, to) then
      call('PERSIST', to)
    end
  end,
  Y = function(from, to, ms)
    if copy(from, to) then
      call('PEXPIRE', to, ms)
    end
  end,
}

local ARITY = {
  e = 2, r = 1, R = 2, a = 1, x = 1, c = 2, b = 4,
  p = 1, q = 2, P = 2, Q = 3, d = 1, z = 3, Z = 2, t = 2, l = 3, n = 2, v = 2, V = 3, k = 1, E = 2, y = 2, Y = 3,
}

local REVISIONS = { r = true, R = true }

-- Which operand names the key that a write fills; 0 is the subject.
local FILLS = { p = 0, q = 0, P = 1, Q = 1, v = 1, V = 1, y = 2, Y = 2 }

-- Whether the unit was applied before.
local function meet(key, id)
  subject = key
  settle(key)
  -- An index that has lost its last member is gone, and what was learnt of it would be wrong of a record.
  forget(key)
  head = call('GETRANGE', key, '0', '23')
  return sub(head, 9, 24) == id
end

local function number(plan, at)
  local high, low = byte(plan, at, at + 1)
  return high * 256 + low
end

-- Where the operand in a place stands, as code.
local function operand(place)
  if place < 32768 then
    return 'A[own + ' .. place .. ']'
  end
  return 'A[names + ' .. place - 32768 .. ']'
end

-- The guards and writes of a plan, and their operands as code; none where one of them is unknown.
local function steps_of(plan)
  local steps, at = {}, 5
  while at <= #plan do
    local letter = sub(plan, at, at)
    local arity = ARITY[letter]
    if not arity then
      return nil
    end
    local operands = {}
    for n = 1, arity do
      operands[n] = operand(number(plan, at + 2 * n - 1))
    end
    steps[#steps + 1] = { letter = letter, operands = operands }
    steps[letter] = true
    at = at + 1 + 2 * arity
  end
  return steps
end

-- A plan as the code of a function: it is taken apart once, and not for each of very many units. Nothing of a plan comes into it but
-- letters that are known, and numbers.
local function code(plan)
  local steps = steps_of(plan)
  if not steps then
    return "raise('ERR unknown operation in a unit: the library is too old for this client')"
  end
  local guards, checks, writes = {}, {}, {}
  local place = number(plan, 3)
  local key = place > 0 and operand(place)
  for _, step in ipairs(steps) do
    local letter = step.letter
    local with = letter .. '(' .. concat(step.operands, ', ') .. ')'
    if GUARD[letter] then
      local answer = 2 * #guards + (REVISIONS[letter] and 0 or 1)
      if letter == 'a' and step.operands[1] == key then
        with = 'new()'
      end
      guards[#guards + 1] = 'if not GUARD.' .. with .. ' then return ' .. answer .. ' end'
    else
      writes[#writes + 1] = 'APPLY.' .. with
      if CHECK[letter] then
        checks[#checks + 1] = 'CHECK.' .. with
      end
      if FILLS[letter] and steps.n then
        checks[#checks + 1] = 'CHECK.filled(' .. (step.operands[FILLS[letter]] or key) .. ')'
      end
    end
  end
  local first = key and 'if meet(' .. key .. ", A[own]) then return '=' end" or ''
  local parts = { first, concat(guards, '\n'), concat(checks, '\n'), 'settle_buckets()', concat(writes, '\n') }
  return concat(parts, '\n')
end

-- Plans that were taken apart. There are as many as kinds of units, which is few.
local plans, plans_known, PLANS_MAX = {}, 0, 1000

local function known(text)
  local plan = plans[text]
  if not plan then
    if plans_known == PLANS_MAX then
      plans, plans_known = {}, 0
    end
    local source = 'local GUARD, CHECK, APPLY, meet, settle_buckets, raise = ...\n'
      .. 'return function(A, names, own)\n' .. code(text) .. '\nend'
    local run = loadstring(source)(GUARD, CHECK, APPLY, meet, settle_buckets, raise)
    plan = { own = number(text, 1), run = run }
    plans[text], plans_known = plan, plans_known + 1
  end
  return plan
end

local function commit(_, A)
  begin()
  local answers, count, i, last = {}, 0, 1, #A
  while i <= last do
    -- Names and operands are counted from the argument before the first of them.
    local names, units = i + 1, tonumber(A[i + 1])
    i = names + tonumber(A[i]) + 1
    for _ = 1, units do
      local plan = known(A[i])
      stamp, subject, taken, appended = stamp + 1, nil, nil, nil
      local fine, answer = pcall(plan.run, A, names, i + 1)
      if not fine then
        answer = '!' .. tostring(type(answer) == 'table' and answer.err or answer)
      end
      count = count + 1
      answers[count] = answer or appended or ''
      i = i + 2 + plan.own
    end
  end
  settle_all()
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

redis.register_function('busbar_v2_admit', commit)
redis.register_function('busbar_v2_append_payload', append_payload)
redis.register_function('busbar_v2_put_payloads', put)
-- What finishes work that is there is written even when memory is short.
redis.register_function({ function_name = 'busbar_v2_put_results', callback = put, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'busbar_v2_advance', callback = commit, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'busbar_v2_lease', callback = lease, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'busbar_v2_release', callback = release, flags = { 'allow-oom' } })
