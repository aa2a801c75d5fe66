//! The arithmetic of training, written once.
//!
//! The same seed must give the same bits in the interpreter, in the reference executor, in machine code and on a GPU.
//! So every formula that is more than one rounding (exp, log, quantizers, the optimizer) is written here once, over
//! the [`Arith`] interface: the interpreter runs it on numbers, lowering runs it on expressions of the kernel IR, and
//! backends only ever see the few primitives of [`Arith`], each of which every machine rounds alike:
//!
//! * `f32` add, subtract, multiply, divide and square root, each rounded to nearest even, never fused;
//! * 32-bit wrapping integer arithmetic, shifts and comparisons;
//! * integer to `f32` and [`Arith::round`] back, and the reinterpretation of bits.
//!
//! Sums of integers and maxima do not depend on order. Sums of `f32` do, and run in the order of [`LANES`].

/// Lanes of an `f32` sum. Element `j` is added to partial sum `j % LANES` (each starts at +0 and takes its elements in
/// ascending order); then the upper half of the partial sums is added to the lower half until one is left. This is
/// one AVX-512 register, two of AVX2 or four of NEON, and half a warp.
pub const LANES: usize = 16;

/// Largest magnitude of a quantized element: symmetric, so -128 is not used.
pub const QMAX: f32 = 127.0;

/// Largest magnitude of a fixed-point weight, `127 * 256`: its rounded plane then stays within ±127.
pub const WEIGHT_MAX: i32 = 127 * 256;

/// Fractional bits of a velocity, which counts in steps of the weight's last bit.
pub const VELOCITY_FRACTION: u32 = 4;

/// Ranges below this count as this, so that a scale is never 0.
pub const MIN_RANGE: f32 = 1e-12;

/// A weight's scale leaves this factor between its largest magnitude and the end of its range, for training to use
/// before the scale must double.
pub const HEADROOM: f32 = 1.5;

/// The primitives that every formula is made of. Values are `f32` or `i32` at the caller's discipline; comparisons
/// give `i32` masks, 0 or -1.
pub trait Arith {
    /// A number, or a name for one.
    type Value: Copy;

    /// An `f32` constant.
    fn f32(&mut self, value: f32) -> Self::Value;
    /// An `i32` constant.
    fn i32(&mut self, value: i32) -> Self::Value;

    /// `a + b` in `f32`.
    fn fadd(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a - b` in `f32`.
    fn fsub(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a * b` in `f32`.
    fn fmul(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a / b` in `f32`.
    fn fdiv(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Square root in `f32`.
    fn sqrt(&mut self, a: Self::Value) -> Self::Value;
    /// `a < b ? b : a` in `f32`.
    fn fmax(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `b < a ? b : a` in `f32`.
    fn fmin(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a < b` in `f32`, as a mask.
    fn flt(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;

    /// `i32` to `f32`, to nearest even.
    fn to_f32(&mut self, a: Self::Value) -> Self::Value;
    /// `f32` of magnitude at most 2^22 to the nearest `i32`, ties to even; any `i32` for other operands.
    fn round(&mut self, a: Self::Value) -> Self::Value;
    /// `f32` below 2^31 to `i32`, toward 0; below -2^31 to -2^31, any `i32` for other operands.
    fn truncate(&mut self, a: Self::Value) -> Self::Value;
    /// The bits of an `f32` as `i32`.
    fn to_bits(&mut self, a: Self::Value) -> Self::Value;
    /// The `f32` that has these bits.
    #[expect(
        clippy::wrong_self_convention,
        reason = "called like the function of `f32`; `self` is who computes"
    )]
    fn from_bits(&mut self, a: Self::Value) -> Self::Value;

    /// Wrapping sum.
    fn iadd(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Wrapping difference.
    fn isub(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Wrapping product.
    fn imul(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Smaller of two, signed.
    fn imin(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Larger of two, signed.
    fn imax(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Bitwise and.
    fn and(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Bitwise exclusive or.
    fn xor(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// Shift left by a constant below 32.
    fn shl(&mut self, a: Self::Value, by: u32) -> Self::Value;
    /// Logical shift right by a constant below 32.
    fn shr(&mut self, a: Self::Value, by: u32) -> Self::Value;
    /// Arithmetic shift right by a constant below 32.
    fn sar(&mut self, a: Self::Value, by: u32) -> Self::Value;
    /// Unsigned remainder by a constant that is not 0.
    fn rem(&mut self, a: Self::Value, by: u32) -> Self::Value;
    /// `a < b`, signed, as a mask.
    fn ilt(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `a == b` as a mask.
    fn ieq(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
    /// `mask ? a : b`; both of one type.
    fn select(&mut self, mask: Self::Value, a: Self::Value, b: Self::Value) -> Self::Value;
}

/// `e^x` to about two units in the last place; 0 is never reached: operands are clamped to ±87.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, the polynomial of degree 6 in `r` is the truncated series with its last
/// two coefficients fitted, and `2^n` goes into the exponent.
pub fn exp<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let (low, high) = (m.f32(-87.0), m.f32(87.0));
    let x = m.fmax(x, low);
    let x = m.fmin(x, high);
    let log2e = m.f32(std::f32::consts::LOG2_E);
    let n = m.fmul(x, log2e);
    let n = m.round(n);
    let nf = m.to_f32(n);
    // ln 2 in two parts, the first with few bits so that its product with n is exact.
    let (ln2_high, ln2_low) = (m.f32(0.693_359_4), m.f32(-2.121_944_4e-4));
    let t = m.fmul(nf, ln2_high);
    let r = m.fsub(x, t);
    let t = m.fmul(nf, ln2_low);
    let r = m.fsub(r, t);
    let p =
        polynomial(m, r, &[1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5]);
    let square = m.fmul(r, r);
    let p = m.fmul(p, square);
    let p = m.fadd(p, r);
    let one = m.f32(1.0);
    let p = m.fadd(p, one);
    let n = m.shl(n, 23);
    let bits = m.to_bits(p);
    let bits = m.iadd(bits, n);
    m.from_bits(bits)
}

/// Natural logarithm of a positive normal number, to about two units in the last place.
///
/// `x = 2^n f` with `f` in `[sqrt(1/2), sqrt(2))`; the polynomial is in `f - 1`.
pub fn log<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let bits = m.to_bits(x);
    // Subtracting the bits of sqrt(1/2) moves the border between exponents to where it is wanted.
    let border = m.i32(0x3f35_04f3);
    let n = m.isub(bits, border);
    let n = m.sar(n, 23);
    let exponent = m.shl(n, 23);
    let bits = m.isub(bits, exponent);
    let f = m.from_bits(bits);
    let one = m.f32(1.0);
    let f = m.fsub(f, one);
    let p = polynomial(
        m,
        f,
        &[
            7.037_683_6e-2,
            -0.115_146_1,
            0.116_769_99,
            -0.124_201_41,
            0.142_493_23,
            -0.166_680_58,
            0.200_007_14,
            -0.249_999_94,
            0.333_333_3,
        ],
    );
    let square = m.fmul(f, f);
    let p = m.fmul(p, f);
    let p = m.fmul(p, square);
    let nf = m.to_f32(n);
    let (ln2_high, ln2_low) = (m.f32(0.693_359_4), m.f32(-2.121_944_4e-4));
    let t = m.fmul(nf, ln2_low);
    let p = m.fadd(p, t);
    let half = m.f32(0.5);
    let t = m.fmul(square, half);
    let p = m.fsub(p, t);
    let p = m.fadd(p, f);
    let t = m.fmul(nf, ln2_high);
    m.fadd(p, t)
}

/// Horner's scheme, the highest coefficient first.
fn polynomial<A: Arith>(m: &mut A, x: A::Value, coefficients: &[f32]) -> A::Value {
    let mut sum = m.f32(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = m.fmul(sum, x);
        let coefficient = m.f32(coefficient);
        sum = m.fadd(sum, coefficient);
    }
    sum
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let zero = m.f32(0.0);
    let negated = m.fsub(zero, x);
    let e = exp(m, negated);
    let one = m.f32(1.0);
    let sum = m.fadd(one, e);
    m.fdiv(one, sum)
}

/// `2 sigmoid(2 x) - 1`.
pub fn tanh<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let twice = m.fadd(x, x);
    let s = sigmoid(m, twice);
    let s = m.fadd(s, s);
    let one = m.f32(1.0);
    m.fsub(s, one)
}

/// The key of a stream: mixes the step's key with the stream's number.
pub fn stream_key<A: Arith>(m: &mut A, step_key: A::Value, stream: u32) -> A::Value {
    let number = m.i32(stream.wrapping_mul(0x9e37_79b9) as i32);
    let key = m.iadd(step_key, number);
    mix(m, key)
}

/// The key of a step: what the session puts into the step's control word.
pub fn step_key(seed: u64, step: u64) -> u32 {
    let mut m = Scalar;
    let mut key = 0u32;
    for word in [seed as u32, (seed >> 32) as u32, step as u32, (step >> 32) as u32] {
        let sum = key.wrapping_add(word).wrapping_add(0x9e37_79b9);
        key = mix(&mut m, Number::I32(sum as i32)).as_i32() as u32;
    }
    key
}

/// 32 random bits for element `(row, column)` of a tensor: a function of key and position alone, so that results do
/// not depend on who computes which tile, and when.
pub fn draw<A: Arith>(m: &mut A, key: A::Value, row: A::Value, column: A::Value) -> A::Value {
    let bits = scramble(m, key, row, column);
    let upper = m.shr(bits, 16);
    m.xor(bits, upper)
}

/// [`draw`] but for its last step, after which the upper half of the bits is as before.
///
/// The row's number is mixed thoroughly, once a row; from there a row's elements are as far apart as the golden ratio
/// takes them, and one more round of mixing hides it.
fn scramble<A: Arith>(m: &mut A, key: A::Value, row: A::Value, column: A::Value) -> A::Value {
    let (row_factor, column_factor) = (m.i32(0x85eb_ca6b_u32 as i32), m.i32(0x9e37_79b9_u32 as i32));
    let row = m.imul(row, row_factor);
    let row = m.xor(row, key);
    let row = mix(m, row);
    let column = m.imul(column, column_factor);
    let counter = m.iadd(row, column);
    stir(m, counter, 16, 0x7feb_352d)
}

/// A bijection of 32 bits in which every bit of the result depends on every bit of the operand: two rounds of
/// xor-shift and multiply (the constants of the `lowbias32` search; bias 0.17).
fn mix<A: Arith>(m: &mut A, x: A::Value) -> A::Value {
    let x = stir(m, x, 16, 0x7feb_352d);
    let x = stir(m, x, 15, 0x846c_a68b);
    let t = m.shr(x, 16);
    m.xor(x, t)
}

fn stir<A: Arith>(m: &mut A, x: A::Value, shift: u32, factor: u32) -> A::Value {
    let t = m.shr(x, shift);
    let x = m.xor(x, t);
    let factor = m.i32(factor as i32);
    m.imul(x, factor)
}

/// 16 random bits, 0 to 65535. Of 32 columns the first 16 take the lower and the last 16 the upper halves of the same 16
/// [`draw`]s: whoever computes 32 columns at a time draws half as often.
pub fn draw_half<A: Arith>(m: &mut A, key: A::Value, row: A::Value, column: A::Value) -> A::Value {
    let group = m.shr(column, 5);
    let group = m.shl(group, 4);
    let within = m.i32(15);
    let within = m.and(column, within);
    let number = m.iadd(group, within);
    let bits = scramble(m, key, row, number);
    let sixteen = m.i32(16);
    let upper = m.and(column, sixteen);
    let upper = m.ieq(upper, sixteen);
    let high = m.shr(bits, 16);
    let low = m.xor(bits, high);
    let mask = m.i32(0xffff);
    let low = m.and(low, mask);
    m.select(upper, high, low)
}

/// One in the fixed point of [`round_stochastically`].
const ONE: f32 = 65536.0;

/// Rounds to one of the two neighbouring integers, the nearer with the greater probability, so that the mean is the
/// operand: the sum of a number in units of 2^-16 and [`draw_half`], without its last 16 bits. `x` is in these units;
/// what is beyond `limits`, or below -32768, becomes that.
fn round_stochastically<A: Arith>(
    m: &mut A,
    x: A::Value,
    limits: (Option<f32>, f32),
    half: A::Value,
) -> A::Value {
    let mut x = x;
    if let Some(least) = limits.0 {
        let least = m.f32(least * ONE);
        x = m.fmax(x, least);
    }
    let most = m.f32(limits.1 * ONE);
    let x = m.fmin(x, most);
    let x = m.truncate(x);
    let x = m.iadd(x, half);
    m.sar(x, 16)
}

/// `clamp(round(x * inverse), -127, 127)` as `i32`; rounded to nearest, or stochastically by a [`draw_half`].
pub fn quantize<A: Arith>(m: &mut A, x: A::Value, inverse: A::Value, noise: Option<A::Value>) -> A::Value {
    if let Some(half) = noise {
        let one = m.f32(ONE);
        let inverse = m.fmul(inverse, one);
        let x = m.fmul(x, inverse);
        return round_stochastically(m, x, (Some(-QMAX), QMAX), half);
    }
    let (low, high) = (m.f32(-QMAX), m.f32(QMAX));
    let x = m.fmul(x, inverse);
    let x = m.fmax(x, low);
    let x = m.fmin(x, high);
    m.round(x)
}

/// The scale that maps a range of magnitudes onto ±127.
pub fn scale_of_range<A: Arith>(m: &mut A, range: A::Value) -> A::Value {
    let least = m.f32(MIN_RANGE);
    let range = m.fmax(range, least);
    let unit = m.f32(1.0 / QMAX);
    m.fmul(range, unit)
}

/// A fixed-point weight from its planes.
pub fn join_planes<A: Arith>(m: &mut A, high: A::Value, low: A::Value) -> A::Value {
    let high = m.shl(high, 8);
    m.iadd(high, low)
}

/// The upper plane of a fixed-point weight: the weight rounded to 8 bits. The lower plane is the signed rest, which is
/// the weight's lowest byte.
pub fn high_plane<A: Arith>(m: &mut A, weight: A::Value) -> A::Value {
    let half = m.i32(128);
    let high = m.iadd(weight, half);
    m.sar(high, 8)
}

/// Steps of weights and velocities, in their last bits: what 16 bits hold.
const STEP_LIMITS: (Option<f32>, f32) = (None, 32767.0);

/// What one optimizer step makes of a weight.
pub struct SgdStep<V> {
    /// The new weight, within ±[`WEIGHT_MAX`].
    pub weight: V,
    /// The new velocity, where there is momentum.
    pub velocity: Option<V>,
    /// Positive where the weight would have left its range, else 0.
    pub saturated: V,
}

/// One step of stochastic gradient descent on a fixed-point weight: `weight -= round(gradient * factor)`, rounded
/// stochastically by `noise`. With momentum the velocity `v = momentum * v + gradient * factor` is rounded
/// stochastically to its own grid and the weight follows the velocity, rounded with the same noise.
pub fn sgd_step<A: Arith>(
    m: &mut A,
    weight: A::Value,
    gradient: A::Value,
    factor: A::Value,
    noise: A::Value,
    velocity: Option<(A::Value, A::Value)>,
) -> SgdStep<A::Value> {
    let step = match velocity {
        None => {
            let one = m.f32(ONE);
            let factor = m.fmul(factor, one);
            let step = m.fmul(gradient, factor);
            (round_stochastically(m, step, STEP_LIMITS, noise), None)
        }
        Some((velocity, momentum)) => {
            // In units of 2^-16 of the velocity's grid.
            let (factor_unit, one) = (m.f32(ONE * (1 << VELOCITY_FRACTION) as f32), m.f32(ONE));
            let factor = m.fmul(factor, factor_unit);
            let added = m.fmul(gradient, factor);
            let momentum = m.fmul(momentum, one);
            let kept = m.fmul(velocity, momentum);
            let v = m.fadd(kept, added);
            let v = round_stochastically(m, v, STEP_LIMITS, noise);
            let step = m.shl(v, 16 - VELOCITY_FRACTION);
            let step = m.iadd(step, noise);
            (m.sar(step, 16), Some(v))
        }
    };
    let (step, velocity) = step;
    let moved = m.isub(weight, step);
    // Within 16 bits, where backends may compute twice as many at a time.
    let moved = clamp(m, moved, i32::from(i16::MIN), i32::from(i16::MAX));
    let weight = clamp(m, moved, -WEIGHT_MAX, WEIGHT_MAX);
    // Both have the sign of the end that was passed, so what differs is not the sign.
    let saturated = m.xor(weight, moved);
    SgdStep { weight, velocity, saturated }
}

fn clamp<A: Arith>(m: &mut A, x: A::Value, least: i32, most: i32) -> A::Value {
    let (least, most) = (m.i32(least), m.i32(most));
    let x = m.imax(x, least);
    m.imin(x, most)
}

/// Half of a weight or velocity, rounded up: what a channel's elements become when its scale doubles.
pub fn halve<A: Arith>(m: &mut A, value: A::Value) -> A::Value {
    let one = m.i32(1);
    let value = m.iadd(value, one);
    m.sar(value, 1)
}

/// [`Arith`] on plain numbers: the meaning of every primitive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

/// A number of [`Scalar`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An `f32`.
    F32(f32),
    /// An `i32`, or a mask.
    I32(i32),
}

impl Number {
    /// The `f32`; an integer's bits where it is one, which no verified program asks for.
    pub fn as_f32(self) -> f32 {
        match self {
            Self::F32(value) => value,
            Self::I32(value) => f32::from_bits(value as u32),
        }
    }

    /// The `i32`; a float's bits where it is one, which no verified program asks for.
    pub fn as_i32(self) -> i32 {
        match self {
            Self::I32(value) => value,
            Self::F32(value) => value.to_bits() as i32,
        }
    }
}

fn mask(condition: bool) -> Number {
    Number::I32(-i32::from(condition))
}

impl Arith for Scalar {
    type Value = Number;

    fn f32(&mut self, value: f32) -> Number {
        Number::F32(value)
    }
    fn i32(&mut self, value: i32) -> Number {
        Number::I32(value)
    }
    fn fadd(&mut self, a: Number, b: Number) -> Number {
        Number::F32(a.as_f32() + b.as_f32())
    }
    fn fsub(&mut self, a: Number, b: Number) -> Number {
        Number::F32(a.as_f32() - b.as_f32())
    }
    fn fmul(&mut self, a: Number, b: Number) -> Number {
        Number::F32(a.as_f32() * b.as_f32())
    }
    fn fdiv(&mut self, a: Number, b: Number) -> Number {
        Number::F32(a.as_f32() / b.as_f32())
    }
    fn sqrt(&mut self, a: Number) -> Number {
        Number::F32(a.as_f32().sqrt())
    }
    fn fmax(&mut self, a: Number, b: Number) -> Number {
        if a.as_f32() < b.as_f32() { b } else { a }
    }
    fn fmin(&mut self, a: Number, b: Number) -> Number {
        if b.as_f32() < a.as_f32() { b } else { a }
    }
    fn flt(&mut self, a: Number, b: Number) -> Number {
        mask(a.as_f32() < b.as_f32())
    }
    fn to_f32(&mut self, a: Number) -> Number {
        Number::F32(a.as_i32() as f32)
    }
    fn round(&mut self, a: Number) -> Number {
        Number::I32(a.as_f32().round_ties_even() as i32)
    }
    fn truncate(&mut self, a: Number) -> Number {
        Number::I32(a.as_f32() as i32)
    }
    fn to_bits(&mut self, a: Number) -> Number {
        Number::I32(a.as_f32().to_bits() as i32)
    }
    fn from_bits(&mut self, a: Number) -> Number {
        Number::F32(f32::from_bits(a.as_i32() as u32))
    }
    fn iadd(&mut self, a: Number, b: Number) -> Number {
        Number::I32(a.as_i32().wrapping_add(b.as_i32()))
    }
    fn isub(&mut self, a: Number, b: Number) -> Number {
        Number::I32(a.as_i32().wrapping_sub(b.as_i32()))
    }
    fn imul(&mut self, a: Number, b: Number) -> Number {
        Number::I32(a.as_i32().wrapping_mul(b.as_i32()))
    }
    fn imin(&mut self, a: Number, b: Number) -> Number {
        Number::I32(a.as_i32().min(b.as_i32()))
    }
    fn imax(&mut self, a: Number, b: Number) -> Number {
        Number::I32(a.as_i32().max(b.as_i32()))
    }
    fn and(&mut self, a: Number, b: Number) -> Number {
        Number::I32(a.as_i32() & b.as_i32())
    }
    fn xor(&mut self, a: Number, b: Number) -> Number {
        Number::I32(a.as_i32() ^ b.as_i32())
    }
    fn shl(&mut self, a: Number, by: u32) -> Number {
        Number::I32(a.as_i32() << by)
    }
    fn shr(&mut self, a: Number, by: u32) -> Number {
        Number::I32((a.as_i32() as u32 >> by) as i32)
    }
    fn sar(&mut self, a: Number, by: u32) -> Number {
        Number::I32(a.as_i32() >> by)
    }
    fn rem(&mut self, a: Number, by: u32) -> Number {
        Number::I32((a.as_i32() as u32 % by) as i32)
    }
    fn ilt(&mut self, a: Number, b: Number) -> Number {
        mask(a.as_i32() < b.as_i32())
    }
    fn ieq(&mut self, a: Number, b: Number) -> Number {
        mask(a.as_i32() == b.as_i32())
    }
    fn select(&mut self, mask: Number, a: Number, b: Number) -> Number {
        if mask.as_i32() != 0 { a } else { b }
    }
}

/// The sum of `values` in the order that [`LANES`] fixes.
pub fn ordered_sum(values: impl IntoIterator<Item = f32>) -> f32 {
    let mut partial = [0.0f32; LANES];
    for (index, value) in values.into_iter().enumerate() {
        partial[index % LANES] += value;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            partial[lane] += partial[lane + width];
        }
    }
    partial[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(f: impl Fn(&mut Scalar, Number) -> Number, x: f32) -> f32 {
        f(&mut Scalar, Number::F32(x)).as_f32()
    }

    fn units_off(ours: f32, exact: f64) -> f64 {
        let unit = f64::from((exact as f32).abs().max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
        (f64::from(ours) - exact).abs() / unit
    }

    #[test]
    fn exp_and_log_are_within_two_units() {
        for i in -8700..=8700 {
            let x = i as f32 / 100.0;
            assert!(units_off(apply(exp, x), f64::from(x).exp()) <= 2.0, "exp {x}");
        }
        for i in 1..20000 {
            for x in [i as f32 / 1000.0, i as f32 * 1.0e4, 1.0e-6 / i as f32] {
                let exact = f64::from(x).ln();
                let error = (f64::from(apply(log, x)) - exact).abs();
                assert!(error <= 2.0 * f64::from(f32::EPSILON) * exact.abs().max(0.5), "log {x}: {error}");
            }
        }
    }

    #[test]
    fn functions_saturate_without_nan() {
        assert!(apply(exp, f32::NEG_INFINITY) > 0.0);
        assert!(apply(exp, f32::INFINITY).is_finite());
        assert_eq!(apply(sigmoid, 100.0), 1.0);
        assert_eq!(apply(tanh, 100.0), 1.0);
        assert_eq!(apply(tanh, -100.0), -1.0);
        assert!((apply(tanh, 0.5) - 0.5f32.tanh()).abs() < 1e-6);
    }

    #[test]
    fn halves_are_uniform() {
        let mut m = Scalar;
        let key = Number::I32(step_key(7, 3) as i32);
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        let n = 1 << 16;
        for i in 0..n {
            let half = draw_half(&mut m, key, Number::I32(i / 256), Number::I32(i % 256)).as_i32();
            assert!((0..65536).contains(&half));
            let u = (f64::from(half) + 0.5) / 65536.0 - 0.5;
            sum += u;
            squares += u * u;
        }
        let n = f64::from(n);
        // Standard errors: mean sqrt(1/12/n) = 0.0011, mean square sqrt(1/180/n) = 0.0003.
        assert!((sum / n).abs() < 0.005, "mean {}", sum / n);
        assert!((squares / n - 1.0 / 12.0).abs() < 0.0015, "variance {}", squares / n);
    }

    #[test]
    fn stochastic_rounding_is_unbiased_and_keeps_integers() {
        let mut m = Scalar;
        for value in [0.25f32, -3.7, 100.01, 5.0] {
            let mut sum = 0.0f64;
            let n = 40000;
            for i in 0..n {
                let noise = draw_half(&mut m, Number::I32(99), Number::I32(i), Number::I32(5));
                let q = quantize(&mut m, Number::F32(value), Number::F32(1.0), Some(noise)).as_i32();
                assert!((f64::from(q) - f64::from(value)).abs() < 1.0);
                sum += f64::from(q);
            }
            assert!((sum / f64::from(n) - f64::from(value)).abs() < 0.01, "{value}");
        }
    }

    #[test]
    fn planes_round_and_rejoin() {
        let mut m = Scalar;
        for w in -WEIGHT_MAX..=WEIGHT_MAX {
            let high = high_plane(&mut m, Number::I32(w));
            let low = Number::I32(i32::from(w as i8));
            assert!(high.as_i32().abs() <= 127);
            assert_eq!(join_planes(&mut m, high, low).as_i32(), w);
        }
    }

    #[test]
    fn steps_saturate_with_a_flag() {
        let mut m = Scalar;
        let zero = Number::I32(0);
        let far = sgd_step(&mut m, Number::I32(32000), Number::F32(-1e9), Number::F32(1.0), zero, None);
        assert_eq!((far.weight, far.saturated), (Number::I32(WEIGHT_MAX), Number::I32(WEIGHT_MAX ^ 32767)));
        let near = sgd_step(&mut m, Number::I32(100), Number::F32(3.0), Number::F32(2.0), zero, None);
        assert_eq!((near.weight, near.saturated), (Number::I32(94), Number::I32(0)));
    }

    #[test]
    fn sums_follow_the_lanes() {
        let values: Vec<f32> = (0..100).map(|i| (i as f32).sin() * 1e3f32.powi(i % 3)).collect();
        let mut partial = [0.0f32; 16];
        values.iter().enumerate().for_each(|(i, v)| partial[i % 16] += v);
        let eight: Vec<f32> = (0..8).map(|i| partial[i] + partial[i + 8]).collect();
        let four: Vec<f32> = (0..4).map(|i| eight[i] + eight[i + 4]).collect();
        assert_eq!(ordered_sum(values), (four[0] + four[2]) + (four[1] + four[3]));
    }
}
