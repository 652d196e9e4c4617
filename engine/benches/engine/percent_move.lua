local BUCKETS = 32

function new()
  local low, high = {}, {}
  for i = 1, BUCKETS do
    low[i], high[i] = math.huge, -math.huge
  end
  return { percent = 1000, bucket_ms = 1875, direction = 2, low = low, high = high, newest = 0 }
end

function evaluate(binding, price, time_ms)
  local lows, highs = binding.low, binding.high
  local bucket = math.floor(time_ms / binding.bucket_ms) + BUCKETS
  binding.newest = math.max(binding.newest, bucket - BUCKETS)
  while binding.newest < bucket do
    binding.newest = binding.newest + 1
    local at = binding.newest % BUCKETS + 1
    lows[at], highs[at] = math.huge, -math.huge
  end
  local at = binding.newest % BUCKETS + 1
  lows[at] = math.min(lows[at], price)
  highs[at] = math.max(highs[at], price)
  local low, high = math.huge, -math.huge
  for i = 1, BUCKETS do
    low = math.min(low, lows[i])
    high = math.max(high, highs[i])
  end
  if binding.direction ~= 1 and low > 0 and (price - low) / low * 100 >= binding.percent then
    return true
  end
  return binding.direction ~= 0 and high > 0 and (price - high) / high * 100 <= -binding.percent
end
