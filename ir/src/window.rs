//! Which positions of one image meet each position of another: the geometry of convolutions, pools and their gradients.
//!
//! An image of `height x width` positions is a matrix `[rows * height * width, channels]`: positions in reading order,
//! channels side by side. So a convolution is a contraction whose left operand is a [`Window`] of the image: row `o` of
//! it holds, tap after tap, the channels of the positions that `o` looks at, and zeros where it looks beyond the edge.
//! Nobody has to write that matrix down. A one-dimensional signal is an image of height 1.
//!
//! Position `o` looks through tap `t`, along each axis, at
//!
//! ```text
//! (o * stride + t * dilation - pad) / spread
//! ```
//!
//! which is there if it lies inside the input and, unless the window [repeats](Window::repeats), the division has no
//! remainder. `spread` is 1 but for the windows that lead back from a result to what it was made from
//! ([`Window::back`]).

use std::fmt;

/// The geometry of a convolution or a pool: see the [module documentation](self). Pairs are `[vertical, horizontal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width of what is looked at.
    pub input: [usize; 2],
    /// Height and width of the result.
    pub output: [usize; 2],
    /// Taps.
    pub kernel: [usize; 2],
    /// How far neighbours in the result look apart.
    pub stride: [usize; 2],
    /// How far neighbouring taps look apart.
    pub dilation: [usize; 2],
    /// How far before the first position the first tap looks; negative for behind it.
    pub pad: [isize; 2],
    /// How far neighbours of the input count apart.
    pub spread: [usize; 2],
    /// Whether what falls between two positions of the input means the one before, and not a zero.
    pub repeats: bool,
}

impl Window {
    /// A window of `kernel` taps that moves by `stride` over `input` with `pad` zeros in front, and as many behind as
    /// `output` needs.
    pub fn new(
        input: [usize; 2],
        output: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        pad: [usize; 2],
    ) -> Self {
        let pad = pad.map(|pad| pad as isize);
        Self { input, output, kernel, stride, dilation: [1; 2], pad, spread: [1; 2], repeats: false }
    }

    /// A window through which each position sees itself and nothing else.
    pub fn identity(size: [usize; 2]) -> Self {
        Self::new(size, size, [1; 2], [1; 2], [0; 2])
    }

    /// A window that sees all of the input at once.
    pub fn whole(input: [usize; 2]) -> Self {
        Self::tiles(input, input)
    }

    /// Windows of `kernel` taps, side by side without gap; what does not fill one is left over.
    pub fn tiles(input: [usize; 2], kernel: [usize; 2]) -> Self {
        let output = [input[0] / kernel[0], input[1] / kernel[1]];
        Self::new(input, output, kernel, kernel, [0; 2])
    }

    /// Windows that, pooled one after the other, combine what [`tiles`](Self::tiles) of `kernel` do: horizontally, then
    /// vertically, each by the smallest factor of what is left, so that few taps are looked through at a time. None where
    /// the kernel is one tap.
    pub fn tiles_in_steps(input: [usize; 2], kernel: [usize; 2]) -> Vec<Self> {
        let mut steps = Vec::new();
        let mut size = [input[0] / kernel[0] * kernel[0], input[1] / kernel[1] * kernel[1]];
        let mut seen = input;
        for axis in [1, 0] {
            for factor in factors(kernel[axis]) {
                let mut kernel = [1; 2];
                kernel[axis] = factor;
                size[axis] /= factor;
                let mut output = seen;
                output[axis] = size[axis];
                steps.push(Self::new(seen, output, kernel, kernel, [0; 2]));
                seen = output;
            }
        }
        steps
    }

    /// Number of taps.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Positions of a sample that are looked at.
    pub fn inputs(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Positions of a sample in the result.
    pub fn outputs(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Whether each position sees itself and nothing else.
    pub fn is_identity(&self) -> bool {
        *self == Self::identity(self.input)
    }

    /// The position that `position` of the result sees through `tap`, if it is there.
    pub fn source(&self, position: usize, tap: usize) -> Option<usize> {
        let place = [position / self.output[1], position % self.output[1]];
        let tap = [tap / self.kernel[1], tap % self.kernel[1]];
        let y = self.along(0, place[0], tap[0])?;
        let x = self.along(1, place[1], tap[1])?;
        Some(y * self.input[1] + x)
    }

    /// The row of an image that row `row` of a result sees through `tap`, where each has the positions of one sample after
    /// another.
    pub fn source_row(&self, row: usize, tap: usize) -> Option<usize> {
        let source = self.source(row % self.outputs(), tap)?;
        Some(row / self.outputs() * self.inputs() + source)
    }

    /// [`source`](Self::source) along one axis.
    pub fn along(&self, axis: usize, place: usize, tap: usize) -> Option<usize> {
        let reach = (place * self.stride[axis] + tap * self.dilation[axis]) as isize - self.pad[axis];
        let reach = usize::try_from(reach).ok()?;
        let there = self.repeats || reach.is_multiple_of(self.spread[axis]);
        Some(reach / self.spread[axis]).filter(|&place| there && place < self.input[axis])
    }

    /// The window that leads back: through it, a position of this one's input sees all positions of the result that
    /// see it. Where those are never two and this one leaves no gaps ([`tiles`](Self::tiles)) it has one tap.
    ///
    /// # Panics
    /// Where this one leads back already.
    pub fn back(&self) -> Self {
        assert_eq!(self.spread, [1; 2], "the way back from the way back is the way there");
        if self.stride == self.kernel && self.dilation == [1; 2] && self.pad == [0; 2] {
            let (input, output) = (self.output, self.input);
            return Self {
                spread: self.stride,
                repeats: true,
                ..Self::new(input, output, [1; 2], [1; 2], [0; 2])
            };
        }
        self.back_by_taps()
    }

    /// The window that leads back with as many taps as this one has, the last one first: what
    /// [`Op::Back`](crate::module::Op::Back) makes of filters goes with it.
    ///
    /// # Panics
    /// Where this one leads back already.
    pub fn back_by_taps(&self) -> Self {
        assert_eq!(self.spread, [1; 2], "the way back from the way back is the way there");
        let reach = |axis: usize| ((self.kernel[axis] - 1) * self.dilation[axis]) as isize;
        Self {
            input: self.output,
            output: self.input,
            kernel: self.kernel,
            stride: [1; 2],
            dilation: self.dilation,
            pad: [reach(0) - self.pad[0], reach(1) - self.pad[1]],
            spread: self.stride,
            repeats: false,
        }
    }

    /// What is wrong with it, if anything is.
    pub fn fault(&self) -> Option<&'static str> {
        let sizes = [self.input, self.output, self.kernel, self.stride, self.dilation, self.spread];
        const LARGEST: usize = 1 << 15;
        if sizes.iter().flatten().any(|&size| size == 0 || size > LARGEST) {
            return Some("has a size of 0, or one beyond 32768");
        }
        if self.pad.iter().any(|pad| pad.unsigned_abs() > LARGEST) {
            return Some("is padded by more than 32768");
        }
        None
    }
}

/// A [`Window`] in a third of the room: expressions are many, and each takes as much as the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedWindow {
    /// Input, output, kernel, stride, dilation, spread.
    sizes: [[u16; 2]; 6],
    pad: [i32; 2],
    repeats: bool,
}

impl From<Window> for PackedWindow {
    /// # Panics
    /// If the window, or the one that it [leads back](Window::back) from, [is none](Window::fault).
    fn from(window: Window) -> Self {
        let Window { input, output, kernel, stride, dilation, spread, pad, repeats } = window;
        let size = |size| u16::try_from(size).expect("a window has no size beyond 32768");
        let sizes = [input, output, kernel, stride, dilation, spread].map(|pair| pair.map(size));
        let pad = pad.map(|pad| i32::try_from(pad).expect("no window reaches over more than 2^31 positions"));
        Self { sizes, pad, repeats }
    }
}

impl From<PackedWindow> for Window {
    fn from(PackedWindow { sizes, pad, repeats }: PackedWindow) -> Self {
        let [input, output, kernel, stride, dilation, spread] = sizes.map(|pair| pair.map(usize::from));
        Self { input, output, kernel, stride, dilation, spread, pad: pad.map(|pad| pad as isize), repeats }
    }
}

/// The factors of a number, merged while their product is at most 8.
fn factors(number: usize) -> Vec<usize> {
    const FEW: usize = 8;
    let mut rest = number;
    let mut factors: Vec<usize> = Vec::new();
    let mut divisor = 2;
    while rest > 1 {
        while divisor * divisor <= rest && !rest.is_multiple_of(divisor) {
            divisor += 1;
        }
        let factor = if divisor * divisor > rest { rest } else { divisor };
        rest /= factor;
        match factors.last_mut() {
            Some(last) if *last * factor <= FEW => *last *= factor,
            _ => factors.push(factor),
        }
    }
    factors
}

/// What differs from a window of one tap that moves by one: `8x8 to 4x4, kernel 3x3, stride 2x2, pad 1x1`.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, output, kernel, stride, dilation, pad, spread, repeats } = self;
        write!(f, "{}x{} to {}x{}", input[0], input[1], output[0], output[1])?;
        for (name, pair) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
            if *pair != [1; 2] {
                write!(f, ", {name} {}x{}", pair[0], pair[1])?;
            }
        }
        if *pad != [0; 2] {
            write!(f, ", pad {}x{}", pad[0], pad[1])?;
        }
        if *spread != [1; 2] {
            write!(f, ", {} {}x{}", if *repeats { "repeat" } else { "spread" }, spread[0], spread[1])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pairs of positions, result first, that meet.
    fn pairs(window: &Window) -> Vec<(usize, usize)> {
        let places = (0..window.outputs()).flat_map(|place| (0..window.taps()).map(move |tap| (place, tap)));
        let mut pairs: Vec<_> =
            places.filter_map(|(place, tap)| Some((place, window.source(place, tap)?))).collect();
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn a_padded_window_sees_zeros_beyond_the_edge() {
        let window = Window::new([2, 3], [2, 3], [3, 3], [1, 1], [1, 1]);
        let seen: Vec<_> = (0..9).map(|tap| window.source(0, tap)).collect();
        assert_eq!(seen, [None, None, None, None, Some(0), Some(1), None, Some(3), Some(4)]);
    }

    #[test]
    fn the_window_back_meets_the_same_pairs() {
        let strided = Window::new([7, 5], [4, 3], [3, 3], [2, 2], [1, 1]);
        let wide = Window { dilation: [2, 1], ..Window::new([6, 4], [4, 5], [2, 2], [1, 1], [0, 1]) };
        for window in [strided, wide, Window::tiles([6, 9], [2, 3]), Window::tiles([7, 5], [2, 2])] {
            let mut there: Vec<_> = pairs(&window).into_iter().map(|(o, i)| (i, o)).collect();
            there.sort_unstable();
            assert_eq!(pairs(&window.back()), there, "{window}");
            for window in [window, window.back()] {
                assert_eq!(Window::from(PackedWindow::from(window)), window);
            }
        }
    }

    #[test]
    fn the_window_back_by_taps_meets_through_the_tap_that_leads_there() {
        let strided = Window::new([7, 5], [4, 3], [3, 3], [2, 2], [1, 1]);
        let wide = Window { dilation: [2, 1], ..Window::new([6, 4], [4, 5], [2, 2], [1, 1], [0, 1]) };
        for window in [strided, wide, Window::tiles([6, 9], [2, 3]), Window::identity([2, 3])] {
            let back = window.back_by_taps();
            assert_eq!(back.taps(), window.taps());
            for (output, tap) in (0..window.outputs()).flat_map(|o| (0..window.taps()).map(move |t| (o, t))) {
                let last_first = window.taps() - 1 - tap;
                for input in 0..window.inputs() {
                    let there = window.source(output, tap) == Some(input);
                    assert_eq!(back.source(input, last_first) == Some(output), there, "{window}");
                }
            }
        }
    }

    #[test]
    fn steps_see_what_tiles_see() {
        for (input, kernel) in [([32, 32], [16, 16]), ([7, 7], [7, 7]), ([9, 14], [4, 6]), ([5, 5], [1, 1])] {
            let mut seen: Vec<Vec<usize>> = (0..input[0] * input[1]).map(|place| vec![place]).collect();
            for step in Window::tiles_in_steps(input, kernel) {
                assert!(step.taps() <= 8, "{step}");
                let through = |place| (0..step.taps()).filter_map(move |tap| step.source(place, tap));
                seen = (0..step.outputs())
                    .map(|place| through(place).flat_map(|source| seen[source].clone()).collect())
                    .collect();
            }
            seen.iter_mut().for_each(|seen| seen.sort_unstable());
            let tiles = Window::tiles(input, kernel);
            let through = |place| (0..tiles.taps()).filter_map(move |tap| tiles.source(place, tap));
            let mut wanted: Vec<Vec<usize>> =
                (0..tiles.outputs()).map(|place| through(place).collect()).collect();
            wanted.iter_mut().for_each(|seen| seen.sort_unstable());
            assert_eq!(seen, wanted, "{kernel:?} of {input:?}");
        }
    }

    #[test]
    fn tiles_lead_back_by_one_tap() {
        assert_eq!(Window::tiles([8, 8], [2, 2]).back().taps(), 1);
    }
}
