function new()
  return { target = 1e9 }
end

function evaluate(binding, price, time_ms)
  return price >= binding.target
end
