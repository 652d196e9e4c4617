;; volume-above in WebAssembly text: fires each time that so much volume has been traded at or above a price.
(module
  (memory (export "memory") 0)

  (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32) (result i32)
    (local $price f64)
    (local $volume f64)
    (local $trades i64)
    (local.set $price (f64.load (local.get $tick)))
    (if (f64.lt (local.get $price) (f64.load (local.get $params)))
      (then
        ;; Nothing counts until the price is back: the host need not ask before.
        (f64.store offset=32 (local.get $verdict) (f64.const -inf))
        (f64.store offset=40 (local.get $verdict) (f64.load (local.get $params)))
        (i64.store offset=48 (local.get $verdict) (i64.const 0x7fffffffffffffff))
        (return (i32.const 2))))
    (local.set $volume (f64.add (f64.load (local.get $state)) (f64.load offset=8 (local.get $tick))))
    (local.set $trades (i64.add (i64.load offset=8 (local.get $state)) (i64.const 1)))
    (if (f64.lt (local.get $volume) (f64.load offset=8 (local.get $params)))
      (then
        (f64.store (local.get $state) (local.get $volume))
        (i64.store offset=8 (local.get $state) (local.get $trades))
        (return (i32.const 0))))
    (f64.store (local.get $state) (f64.const 0))
    (i64.store offset=8 (local.get $state) (i64.const 0))
    (f64.store (local.get $verdict) (local.get $price))
    (f64.store offset=8 (local.get $verdict) (local.get $volume))
    (f64.store offset=16 (local.get $verdict) (f64.convert_i64_s (local.get $trades)))
    (i32.const 1)))
