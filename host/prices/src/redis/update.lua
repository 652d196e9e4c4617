-- Applies a batch to one symbol, unless another writer was faster.
-- KEYS: the series, the price, its time, the finished candles of each interval.
-- ARGV: the series as it was read and as it is now, the price, its time, and then for each finished candle: which of the
-- candles' keys, how many it keeps, the start, the candle.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
    return 0
end
-- The keys of the price may be another program's as well: what is there may be newer, or no number.
local time_ms = tonumber(redis.call('GET', KEYS[3]) or '')
if not time_ms or time_ms <= tonumber(ARGV[4]) then
    redis.call('SET', KEYS[2], ARGV[3])
    redis.call('SET', KEYS[3], ARGV[4])
end
for i = 5, #ARGV, 4 do
    local candles, kept, start, candle = KEYS[3 + ARGV[i]], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    redis.call('ZREMRANGEBYSCORE', candles, start, start)
    redis.call('ZADD', candles, start, candle)
    redis.call('ZREMRANGEBYRANK', candles, 0, -kept - 1)
end
-- Last: a script that fails in the middle is run again, which changes nothing that it has written.
redis.call('SET', KEYS[1], ARGV[2])
return 1
