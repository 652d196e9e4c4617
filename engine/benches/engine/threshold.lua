function new()
  return { target = 1e9 }
end

function judge(binding, price, time_ms)
  return price >= binding.target
end
