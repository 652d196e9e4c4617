;; The built-in rule `above`: fires when the price is at or above the target.
;; Params: 8 bytes, the target (f64). State: none. Evidence: the target.
(module
  (memory (export "memory") 0)

  (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32) (result i32)
    (local $target f64)
    (local.set $target (f64.load (local.get $params)))
    (if (result i32) (f64.ge (f64.load (local.get $tick)) (local.get $target))
      (then
        (f64.store (local.get $verdict) (local.get $target))
        (i32.const 1))
      (else
        (i32.const 0))))

  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"above\",\"version\":\"1.0.0\",\"description\":\"Fires when the price is at or above the target.\",\"author\":\"The Tocsin authors\",\"params\":{\"schema\":{\"type\":\"object\",\"properties\":{\"target\":{\"type\":\"number\",\"description\":\"The price to compare with.\",\"exclusiveMinimum\":0}},\"required\":[\"target\"],\"additionalProperties\":false},\"layout\":[{\"name\":\"target\",\"type\":\"f64\",\"offset\":0}],\"size\":8},\"state\":{\"size\":0},\"evidence\":[\"target\"],\"sleeps\":false}")
)
