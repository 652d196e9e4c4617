;; Fires when the price is at or above the target, as the built-in `above`, but never sleeps: it is evaluated on every tick.
;; Params: the target (f64). State: none. Evidence: the target.
(module
  (memory (export "memory") 0)

  (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32) (result i32)
    (local $target f64)
    (local.set $target (f64.load (local.get $params)))
    (if (f64.lt (f64.load (local.get $tick)) (local.get $target)) (then (return (i32.const 0))))
    (f64.store (local.get $verdict) (local.get $target))
    (i32.const 1))

  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"threshold\",\"version\":\"1.0.0\",\"params\":{\"schema\":{\"type\":\"object\",\"properties\":{\"target\":{\"type\":\"number\"}},\"required\":[\"target\"],\"additionalProperties\":false},\"layout\":[{\"name\":\"target\",\"type\":\"f64\",\"offset\":0}],\"size\":8},\"evidence\":[\"target\"]}")
)
