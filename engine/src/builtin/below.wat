;; The built-in rule `below`: fires when the price is at or below the target.
;; Params: 8 bytes, the target (f64). State: none. Evidence: the target. It sleeps as
;; long as the price has not reached the target.
(module
  (memory (export "memory") 0)

  (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32) (result i32)
    (local $target f64)
    (local.set $target (f64.load (local.get $params)))
    (if (result i32) (f64.le (f64.load (local.get $tick)) (local.get $target))
      (then
        (f64.store (local.get $verdict) (local.get $target))
        (i32.const 1))
      (else
        ;; Nothing changes while the price is above the target, at whatever time.
        (f64.store offset=32 (local.get $verdict) (local.get $target))
        (f64.store offset=40 (local.get $verdict) (f64.const inf))
        (i64.store offset=48 (local.get $verdict) (i64.const 0x7fffffffffffffff))
        (i32.const 2))))

  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"below\",\"version\":\"1.0.0\",\"description\":\"Fires when the price is at or below the target.\",\"author\":\"The Tocsin authors\",\"params\":{\"schema\":{\"type\":\"object\",\"properties\":{\"target\":{\"type\":\"number\",\"description\":\"The price to compare with.\",\"exclusiveMinimum\":0}},\"required\":[\"target\"],\"additionalProperties\":false},\"layout\":[{\"name\":\"target\",\"type\":\"f64\",\"offset\":0}],\"size\":8},\"state\":{\"size\":0},\"evidence\":[\"target\"],\"sleeps\":true}")
)
