;; The cross of two moving averages, as example-rules/ema-cross computes it, without loops: certified.
;; Params: fast and slow period (u32), direction (u32, 0 up, 1 down, 2 either). State: fast, slow (f64), ticks seen (u32), side (i32).
(module
  (memory (export "memory") 0)

  (func $step (param $average f64) (param $price f64) (param $period i32) (result f64)
    (f64.add
      (local.get $average)
      (f64.mul
        (f64.div (f64.const 2) (f64.add (f64.convert_i32_u (local.get $period)) (f64.const 1)))
        (f64.sub (local.get $price) (local.get $average)))))

  (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32) (result i32)
    (local $price f64) (local $fast f64) (local $slow f64) (local $seen i32) (local $before i32) (local $side i32)
    (local $direction i32)
    ;; METER
    (local.set $price (f64.load (local.get $tick)))
    (local.set $seen (i32.load offset=16 (local.get $state)))
    (local.set $fast (f64.load (local.get $state)))
    (local.set $slow (f64.load offset=8 (local.get $state)))
    (if (i32.eqz (local.get $seen))
      (then (local.set $fast (local.get $price)) (local.set $slow (local.get $price))))
    (local.set $fast (call $step (local.get $fast) (local.get $price) (i32.load (local.get $params))))
    (local.set $slow (call $step (local.get $slow) (local.get $price) (i32.load offset=4 (local.get $params))))
    (f64.store (local.get $state) (local.get $fast))
    (f64.store offset=8 (local.get $state) (local.get $slow))
    (if (i32.le_u (local.get $seen) (i32.load offset=4 (local.get $params)))
      (then
        (local.set $seen (i32.add (local.get $seen) (i32.const 1)))
        (i32.store offset=16 (local.get $state) (local.get $seen))))
    (local.set $before (i32.load offset=20 (local.get $state)))
    (local.set $side
      (select (i32.const 1)
        (select (i32.const -1) (local.get $before) (f64.lt (local.get $fast) (local.get $slow)))
        (f64.gt (local.get $fast) (local.get $slow))))
    (i32.store offset=20 (local.get $state) (local.get $side))
    (local.set $direction (i32.load offset=8 (local.get $params)))
    (if (result i32)
      (i32.and
        (i32.and
          (i32.ne (local.get $before) (i32.const 0))
          (i32.ne (local.get $before) (local.get $side)))
        (i32.and
          (i32.gt_u (local.get $seen) (i32.load offset=4 (local.get $params)))
          (i32.or
            (i32.eq (local.get $direction) (i32.const 2))
            (i32.eq (local.get $side) (select (i32.const -1) (i32.const 1) (local.get $direction))))))
      (then
        (f64.store (local.get $verdict) (local.get $fast))
        (f64.store offset=8 (local.get $verdict) (local.get $slow))
        (i32.const 1))
      (else (i32.const 0))))

  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"bench-ema\",\"version\":\"1.0.0\",\"params\":{\"schema\":{\"type\":\"object\",\"properties\":{\"fast\":{\"type\":\"integer\"},\"slow\":{\"type\":\"integer\"},\"direction\":{\"type\":\"integer\"}},\"required\":[\"fast\",\"slow\",\"direction\"],\"additionalProperties\":false},\"layout\":[{\"name\":\"fast\",\"type\":\"u32\",\"offset\":0},{\"name\":\"slow\",\"type\":\"u32\",\"offset\":4},{\"name\":\"direction\",\"type\":\"u32\",\"offset\":8}],\"size\":16},\"state\":{\"size\":24},\"evidence\":[\"fast_ema\",\"slow_ema\"]}")
)
