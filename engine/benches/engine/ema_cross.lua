function new()
  return { fast_period = 12, slow_period = 26, direction = 2, fast = 0, slow = 0, fast_weight = 0, slow_weight = 0, seen = 0, side = 0 }
end

function evaluate(binding, price, time_ms)
  if binding.seen == 0 then
    binding.fast, binding.slow = price, price
    binding.fast_weight, binding.slow_weight = 2 / (binding.fast_period + 1), 2 / (binding.slow_period + 1)
  end
  local fast = binding.fast + binding.fast_weight * (price - binding.fast)
  local slow = binding.slow + binding.slow_weight * (price - binding.slow)
  binding.fast, binding.slow = fast, slow
  if binding.seen <= binding.slow_period then
    binding.seen = binding.seen + 1
  end
  local before = binding.side
  if fast > slow then
    binding.side = 1
  elseif fast < slow then
    binding.side = -1
  end
  local wanted = binding.direction == 2 or (binding.side == 1) == (binding.direction == 0)
  return before ~= 0 and binding.side ~= before and wanted and binding.seen > binding.slow_period
end
