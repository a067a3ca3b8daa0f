;; The denoiser of a Gaussian mixture at one noise level, two points at a time: the inner loop of score.js, which states the method.
;; `wat2wasm kernel.wat` (wabt) makes the bytes that kernel.js holds. Addresses are in bytes, values float64:
;;   x, out    2 numbers a point           forms    6 a component: mean x, mean y, hxx, hxy, hyy, c
;;   bounds    2 a group of 8: the highest c, -1/(2 widest variance)    circles    3 a group: centre and radius    scratch    2 a group
;;   table     exp(i/64 - 17), i = 0 .. 2176
(module
  (memory (export "memory") 1)

  ;; the largest term of the components [from, to) at the points (X, Y)
  (func $top (param $X v128) (param $Y v128) (param $f i32) (param $to i32) (result v128)
    (local $best v128) (local $dx v128) (local $dy v128)
    (local.set $best (f64x2.splat (f64.const -inf)))
    (loop $components
      (local.set $dx (f64x2.sub (local.get $X) (v128.load64_splat (local.get $f))))
      (local.set $dy (f64x2.sub (local.get $Y) (v128.load64_splat offset=8 (local.get $f))))
      (local.set $best (f64x2.pmax (local.get $best) (f64x2.add (v128.load64_splat offset=40 (local.get $f))
        (f64x2.mul (f64x2.splat (f64.const 0.5)) (f64x2.add
          (f64x2.mul (local.get $dx) (f64x2.add (f64x2.mul (v128.load64_splat offset=16 (local.get $f)) (local.get $dx))
            (f64x2.mul (v128.load64_splat offset=24 (local.get $f)) (local.get $dy))))
          (f64x2.mul (local.get $dy) (f64x2.add (f64x2.mul (v128.load64_splat offset=24 (local.get $f)) (local.get $dx))
            (f64x2.mul (v128.load64_splat offset=32 (local.get $f)) (local.get $dy)))))))))
      (br_if $components (i32.lt_u (local.tee $f (i32.add (local.get $f) (i32.const 48))) (local.get $to))))
    (local.get $best))

  ;; where group g ends among the components
  (func $end (param $g i32) (param $forms i32) (param $count i32) (result i32)
    (local $last i32)
    (local.set $last (i32.shl (i32.add (local.get $g) (i32.const 1)) (i32.const 3)))
    (if (i32.gt_u (local.get $last) (local.get $count)) (then (local.set $last (local.get $count))))
    (i32.add (local.get $forms) (i32.mul (local.get $last) (i32.const 48))))

  (func (export "denoise") (param $x i32) (param $out i32) (param $pairs i32) (param $forms i32) (param $count i32)
      (param $bounds i32) (param $circles i32) (param $scratch i32) (param $groups i32) (param $table i32) (param $s2 f64)
    (local $a v128) (local $b v128) (local $X v128) (local $Y v128) (local $dx v128) (local $dy v128) (local $u v128) (local $v v128)
    (local $t v128) (local $r v128) (local $index v128) (local $reference v128) (local $floor v128) (local $above v128)
    (local $sum v128) (local $gx v128) (local $gy v128) (local $share v128)
    (local $g i32) (local $f i32) (local $to i32) (local $c i32) (local $best0 i32) (local $best1 i32) (local $high0 f64) (local $high1 f64)
    (loop $points
      (local.set $a (v128.load (local.get $x)))
      (local.set $b (v128.load offset=16 (local.get $x)))
      (local.set $X (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $a) (local.get $b)))
      (local.set $Y (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $a) (local.get $b)))

      ;; bounds of the groups
      (local.set $g (i32.const 0))
      (local.set $best0 (i32.const 0))
      (local.set $best1 (i32.const 0))
      (local.set $high0 (f64.const -inf))
      (local.set $high1 (f64.const -inf))
      (loop $groups_
        (local.set $c (i32.add (local.get $circles) (i32.mul (local.get $g) (i32.const 24))))
        (local.set $dx (f64x2.sub (local.get $X) (v128.load64_splat (local.get $c))))
        (local.set $dy (f64x2.sub (local.get $Y) (v128.load64_splat offset=8 (local.get $c))))
        (local.set $t (f64x2.pmax (f64x2.splat (f64.const 0)) (f64x2.sub
          (f64x2.sqrt (f64x2.add (f64x2.mul (local.get $dx) (local.get $dx)) (f64x2.mul (local.get $dy) (local.get $dy))))
          (v128.load64_splat offset=16 (local.get $c)))))
        (local.set $c (i32.add (local.get $bounds) (i32.shl (local.get $g) (i32.const 4))))
        (local.set $t (f64x2.add (v128.load64_splat (local.get $c))
          (f64x2.mul (v128.load64_splat offset=8 (local.get $c)) (f64x2.mul (local.get $t) (local.get $t)))))
        (v128.store (i32.add (local.get $scratch) (i32.shl (local.get $g) (i32.const 4))) (local.get $t))
        (if (f64.gt (f64x2.extract_lane 0 (local.get $t)) (local.get $high0)) (then
          (local.set $high0 (f64x2.extract_lane 0 (local.get $t))) (local.set $best0 (local.get $g))))
        (if (f64.gt (f64x2.extract_lane 1 (local.get $t)) (local.get $high1)) (then
          (local.set $high1 (f64x2.extract_lane 1 (local.get $t))) (local.set $best1 (local.get $g))))
        (br_if $groups_ (i32.lt_u (local.tee $g (i32.add (local.get $g) (i32.const 1))) (local.get $groups))))

      ;; the reference of the exponentials: the largest term of the most promising groups
      (local.set $reference (f64x2.pmax
        (call $top (local.get $X) (local.get $Y) (i32.add (local.get $forms) (i32.mul (local.get $best0) (i32.const 384)))
          (call $end (local.get $best0) (local.get $forms) (local.get $count)))
        (call $top (local.get $X) (local.get $Y) (i32.add (local.get $forms) (i32.mul (local.get $best1) (i32.const 384)))
          (call $end (local.get $best1) (local.get $forms) (local.get $count)))))

      (loop $again
        (local.set $floor (f64x2.sub (local.get $reference) (f64x2.splat (f64.const 17))))
        (local.set $above (f64x2.splat (f64.const 0)))
        (local.set $sum (f64x2.splat (f64.const 0)))
        (local.set $gx (f64x2.splat (f64.const 0)))
        (local.set $gy (f64x2.splat (f64.const 0)))
        (local.set $g (i32.const 0))
        (loop $each_group
          (if (v128.any_true (f64x2.ge (v128.load (i32.add (local.get $scratch) (i32.shl (local.get $g) (i32.const 4)))) (local.get $floor)))
            (then
              (local.set $f (i32.add (local.get $forms) (i32.mul (local.get $g) (i32.const 384))))
              (local.set $to (call $end (local.get $g) (local.get $forms) (local.get $count)))
              (loop $components
                (local.set $dx (f64x2.sub (local.get $X) (v128.load64_splat (local.get $f))))
                (local.set $dy (f64x2.sub (local.get $Y) (v128.load64_splat offset=8 (local.get $f))))
                (local.set $a (v128.load64_splat offset=24 (local.get $f)))
                (local.set $u (f64x2.add (f64x2.mul (v128.load64_splat offset=16 (local.get $f)) (local.get $dx))
                  (f64x2.mul (local.get $a) (local.get $dy))))
                (local.set $v (f64x2.add (f64x2.mul (local.get $a) (local.get $dx))
                  (f64x2.mul (v128.load64_splat offset=32 (local.get $f)) (local.get $dy))))
                (local.set $t (f64x2.sub (f64x2.add (v128.load64_splat offset=40 (local.get $f))
                  (f64x2.mul (f64x2.splat (f64.const 0.5)) (f64x2.add (f64x2.mul (local.get $u) (local.get $dx))
                    (f64x2.mul (local.get $v) (local.get $dy))))) (local.get $floor)))
                (local.set $above (f64x2.pmax (local.get $above) (local.get $t)))
                (if (v128.any_true (f64x2.ge (local.get $t) (f64x2.splat (f64.const 0)))) (then
                ;; exp(t - 17): i = round(64 t) in the low bits of 64 t + 1.5 2^52, exp((t - i/64)) by its series
                  (local.set $a (f64x2.pmin (f64x2.pmax (local.get $t) (f64x2.splat (f64.const 0))) (f64x2.splat (f64.const 34))))
                  (local.set $index (f64x2.add (f64x2.mul (local.get $a) (f64x2.splat (f64.const 64))) (f64x2.splat (f64.const 6755399441055744))))
                  (local.set $r (f64x2.sub (local.get $a) (f64x2.mul (f64x2.splat (f64.const 0.015625))
                    (f64x2.sub (local.get $index) (f64x2.splat (f64.const 6755399441055744))))))
                  (local.set $share (v128.load64_lane 1
                    (i32.add (local.get $table) (i32.shl (i32x4.extract_lane 2 (local.get $index)) (i32.const 3)))
                    (v128.load64_zero (i32.add (local.get $table) (i32.shl (i32x4.extract_lane 0 (local.get $index)) (i32.const 3))))))
                  (local.set $b (f64x2.add (f64x2.splat (f64.const 0.16666666666666666))
                    (f64x2.mul (local.get $r) (f64x2.splat (f64.const 0.041666666666666664)))))
                  (local.set $b (f64x2.add (f64x2.splat (f64.const 0.5)) (f64x2.mul (local.get $r) (local.get $b))))
                  (local.set $b (f64x2.add (f64x2.splat (f64.const 1)) (f64x2.mul (local.get $r) (local.get $b))))
                  (local.set $b (f64x2.add (f64x2.splat (f64.const 1)) (f64x2.mul (local.get $r) (local.get $b))))
                  (local.set $share (v128.and (f64x2.mul (local.get $share) (local.get $b))
                    (f64x2.ge (local.get $t) (f64x2.splat (f64.const 0)))))
                  (local.set $sum (f64x2.add (local.get $sum) (local.get $share)))
                  (local.set $gx (f64x2.add (local.get $gx) (f64x2.mul (local.get $share) (local.get $u))))
                  (local.set $gy (f64x2.add (local.get $gy) (f64x2.mul (local.get $share) (local.get $v))))))
                (br_if $components (i32.lt_u (local.tee $f (i32.add (local.get $f) (i32.const 48))) (local.get $to))))))
          (br_if $each_group (i32.lt_u (local.tee $g (i32.add (local.get $g) (i32.const 1))) (local.get $groups))))
        ;; a term too large for the table: start again from it
        (if (v128.any_true (f64x2.gt (local.get $above) (f64x2.splat (f64.const 34)))) (then
          (local.set $reference (f64x2.pmax (local.get $reference) (f64x2.add (local.get $above) (local.get $floor))))
          (br $again))))

      (local.set $a (f64x2.add (local.get $X) (f64x2.div (f64x2.mul (f64x2.splat (local.get $s2)) (local.get $gx)) (local.get $sum))))
      (local.set $b (f64x2.add (local.get $Y) (f64x2.div (f64x2.mul (f64x2.splat (local.get $s2)) (local.get $gy)) (local.get $sum))))
      (v128.store (local.get $out)
        (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $a) (local.get $b)))
      (v128.store offset=16 (local.get $out)
        (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $a) (local.get $b)))
      (local.set $x (i32.add (local.get $x) (i32.const 32)))
      (local.set $out (i32.add (local.get $out) (i32.const 32)))
      (br_if $points (local.tee $pairs (i32.sub (local.get $pairs) (i32.const 1)))))))
