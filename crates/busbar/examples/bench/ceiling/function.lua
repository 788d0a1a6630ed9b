#!lua name=busbar_ceiling
-- What any control plane must do in Redis for a change of a job, and nothing else: units of one guarded record, one index entry and one log entry.
-- It is a part of the definition of the ceiling: whatever changes here changes all ratios (docs/adr/0050-the-ceiling.md).
--
--   call:  lock | epoch | units      unit:  record key | revision before or '' | record | milliseconds | index | score | member | log | entry
local SIZE = 9

local function unit(A, i)
  local head = redis.call('GETRANGE', A[i], '0', '7')
  if head ~= A[i + 1] then
    return 'revision'
  end
  redis.call('SET', A[i], A[i + 2], 'PX', A[i + 3])
  redis.call('ZADD', A[i + 4], A[i + 5], A[i + 6])
  redis.call('XADD', A[i + 7], 'MAXLEN', '~', '100000', '*', 'v', A[i + 8])
  return ''
end

local function commit(_, A)
  local mine = redis.call('HGET', A[1], 'epoch') == A[2]
  local answers = {}
  for i = 3, #A, SIZE do
    answers[#answers + 1] = mine and unit(A, i) or 'epoch'
  end
  return answers
end

redis.register_function('busbar_ceiling', commit)
