//! How the shape that a file sees fits the matrix that the layer IR has.
//!
//! ONNX sees an activation as a tensor, mostly `[batch, channels, height, width]`; the layer IR has a matrix, a row for
//! each position of each sample and a column for each channel. A [`View`] holds both: the axes as they are *stored*,
//! outermost first, and for each dimension of the tensor the axes that it consists of. Transposing permutes dimensions,
//! reshaping regroups axes (and may split one), so neither moves a number; and whoever needs the numbers in another
//! order, a dense layer behind a `Flatten` for instance, reads from the view which of its columns goes where. So does a
//! convolution behind a channel shuffle; where axes do not say it, because parts of a shuffled image were put together,
//! the view knows the column of each channel.

use std::rc::Rc;

use crate::fold::{Int, places};
use crate::import::Reason;

/// More dimensions than any exporter writes.
pub(crate) const RANK: usize = 16;

/// One dimension of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Batch,
    Fixed(usize),
}

impl Axis {
    pub(crate) fn int(self) -> Int {
        match self {
            Self::Batch => Int::BATCH,
            Self::Fixed(size) => Int::new(size as i64),
        }
    }
}

/// Dimensions for messages.
pub(crate) struct Dims<'a>(pub(crate) &'a [Axis]);

impl std::fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dims: Vec<String> = self.0.iter().map(|axis| axis.int().to_string()).collect();
        write!(f, "[{}]", dims.join(", "))
    }
}

/// A dimension of the tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Batch,
    /// Stored axes by number, outermost first; none where the size is 1.
    Axes(Vec<usize>),
}

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Sizes of the axes as they are stored, none of them 1.
    stored: Vec<usize>,
    /// How many of them are positions; the rest are channels.
    positions: usize,
    dims: Vec<Part>,
    /// The column of each channel, counted as the axes have them, where that is another.
    order: Order,
}

/// For each channel its column; none where these are the same.
pub(crate) type Order = Option<Rc<[usize]>>;

/// An order from a list of columns.
pub(crate) fn order(columns: Vec<usize>) -> Order {
    let same = columns.iter().enumerate().all(|(channel, &column)| channel == column);
    (!same).then(|| columns.into())
}

/// What makes an image of a stored matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// It is one.
    Image,
    /// Samples, channel after channel.
    ChannelsFirst,
    /// Samples, position after position.
    ChannelsLast,
}

/// Height, width and channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    /// The channels' columns.
    pub(crate) order: Order,
}

impl Extent {
    /// The column of a channel.
    pub(crate) fn column(&self, channel: usize) -> usize {
        self.order.as_ref().map_or(channel, |order| order[channel])
    }
}

impl View {
    /// A tensor whose samples are stored as it sees them.
    pub(crate) fn flat(dims: &[Axis]) -> Self {
        let mut stored = Vec::new();
        let parts = dims.iter().map(|dim| match dim {
            Axis::Batch => Part::Batch,
            Axis::Fixed(1) => Part::Axes(Vec::new()),
            Axis::Fixed(size) => {
                stored.push(*size);
                Part::Axes(vec![stored.len() - 1])
            }
        });
        let dims = parts.collect();
        Self { stored, positions: 0, dims, order: None }
    }

    /// The same, its features at these columns.
    pub(crate) fn ordered(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// `[batch, columns]`.
    pub(crate) fn matrix(columns: usize) -> Self {
        Self::flat(&[Axis::Batch, Axis::Fixed(columns)])
    }

    /// An image as ONNX sees it: `[batch, channels, height, width]`, of rank 3 without the height.
    pub(crate) fn image(extent: Extent, rank: usize) -> Self {
        let sizes = [extent.size[0], extent.size[1], extent.channels];
        let mut stored = Vec::new();
        let mut part = |size: usize| {
            stored.extend((size != 1).then_some(size));
            Part::Axes(if size == 1 { Vec::new() } else { vec![stored.len() - 1] })
        };
        let [height, width, channels] = sizes.map(&mut part);
        let mut dims = vec![Part::Batch, channels, height, width];
        if rank == 3 {
            dims.remove(2);
        }
        let positions = stored.len() - usize::from(extent.channels != 1);
        Self { stored, positions, dims, order: extent.order }
    }

    pub(crate) fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The tensor's dimensions.
    pub(crate) fn dims(&self) -> Vec<Axis> {
        self.dims.iter().map(|part| self.axis(part)).collect()
    }

    fn axis(&self, part: &Part) -> Axis {
        match part {
            Part::Batch => Axis::Batch,
            Part::Axes(_) => Axis::Fixed(self.size(part)),
        }
    }

    fn size(&self, part: &Part) -> usize {
        part.axes().iter().map(|&axis| self.stored[axis]).product()
    }

    /// Whether the axes of these dimensions, in this order, are the stored ones from `from` to `to`.
    fn in_order(&self, parts: &[&Part], from: usize, to: usize) -> bool {
        parts.iter().flat_map(|part| part.axes()).copied().eq(from..to)
    }

    /// Features of a sample, where the shape is `[batch, features]`.
    pub(crate) fn features(&self) -> Result<usize, Reason> {
        match self.dims.as_slice() {
            [Part::Batch, features @ Part::Axes(_)] => Ok(self.size(features)),
            _ => {
                Err(format!("the activation has the shape {}, not [batch, features]", Dims(&self.dims()))
                    .into())
            }
        }
    }

    /// Classes, where the shape is `[batch, classes]`, perhaps with dimensions of size 1 behind.
    pub(crate) fn classes(&self) -> Result<usize, Reason> {
        let ones: Vec<usize> =
            (2..self.rank()).filter(|&at| self.axis(&self.dims[at]) == Axis::Fixed(1)).collect();
        self.without(&ones).features()
    }

    /// Whether the second dimension is that many channels.
    pub(crate) fn is_channels(&self, channels: usize) -> bool {
        match self.dims.as_slice() {
            [Part::Batch, second @ Part::Axes(_), ..] => self.size(second) == channels,
            _ => false,
        }
    }

    /// Height and width of what is stored: positions beyond two axes are taken together.
    pub(crate) fn stored_size(&self) -> [usize; 2] {
        match &self.stored[..self.positions] {
            &[height, width] => [height, width],
            positions => [1, positions.iter().product()],
        }
    }

    /// Whether a sample is one row.
    pub(crate) fn is_matrix(&self) -> bool {
        self.positions == 0
    }

    /// Whether a sample is one row, its numbers in the tensor's order.
    pub(crate) fn is_plain(&self) -> bool {
        let in_order = self.in_order(&self.dims.iter().collect::<Vec<_>>(), 0, self.stored.len());
        self.positions == 0 && self.order.is_none() && in_order
    }

    /// The image that `[batch, channels, height, width]` is, and what makes it of what is stored.
    pub(crate) fn as_image(&self) -> Result<(Layout, Extent), Reason> {
        let (channels, places) = match self.dims.as_slice() {
            [Part::Batch, channels @ Part::Axes(_), places @ ..] if (1..=2).contains(&places.len()) => {
                (channels, places)
            }
            _ => return Err(self.no_image()),
        };
        if places.contains(&Part::Batch) {
            return Err(self.no_image());
        }
        let [height, width] = match places {
            [width] => [1, self.size(width)],
            places => [self.size(&places[0]), self.size(&places[1])],
        };
        let all = self.stored.len();
        let order = self.channel_order(channels);
        let extent = Extent { size: [height, width], channels: self.size(channels), order };
        let places: Vec<&Part> = places.iter().collect();
        let channels_first: Vec<&Part> = [channels].into_iter().chain(places.iter().copied()).collect();
        let channels_last: Vec<&Part> = places.iter().copied().chain([channels]).collect();
        let mut axes = channels.axes().to_vec();
        axes.sort_unstable();
        let stored = self.in_order(&places, 0, self.positions) && axes.into_iter().eq(self.positions..all);
        if stored {
            Ok((Layout::Image, extent))
        } else if self.order.is_some() {
            Err(format!("the activation of shape {} has its channels shuffled", Dims(&self.dims())).into())
        } else if self.positions == 0 && self.in_order(&channels_first, 0, all) {
            Ok((Layout::ChannelsFirst, Extent { order: None, ..extent }))
        } else if self.positions == 0 && self.in_order(&channels_last, 0, all) {
            Ok((Layout::ChannelsLast, Extent { order: None, ..extent }))
        } else {
            Err(format!("the activation of shape {} has its channels elsewhere", Dims(&self.dims())).into())
        }
    }

    /// The columns of the channels that a dimension has.
    fn channel_order(&self, channels: &Part) -> Order {
        let axes = channels.axes();
        let mut columns = vec![0];
        for &axis in axes {
            let inner: usize = self.stored[axis + 1..].iter().product();
            let steps = 0..self.stored[axis];
            columns =
                columns.iter().flat_map(|&start| steps.clone().map(move |at| start + at * inner)).collect();
        }
        let columns = columns.into_iter();
        order(match &self.order {
            Some(order) => columns.map(|column| order.get(column).copied().unwrap_or(column)).collect(),
            None => columns.collect(),
        })
    }

    /// The columns of the features of `[batch, features]`.
    pub(crate) fn feature_order(&self) -> Order {
        let mut columns = vec![0; self.stored.iter().product()];
        self.feature_places().into_iter().enumerate().for_each(|(column, feature)| columns[feature] = column);
        order(columns)
    }

    fn no_image(&self) -> Reason {
        let shape = "[batch, channels, height, width] or [batch, channels, width]";
        format!("the activation has the shape {}, not {shape}", Dims(&self.dims())).into()
    }

    /// Dimensions in another order.
    pub(crate) fn permuted(&self, order: &[usize]) -> Self {
        let dims = order.iter().map(|&at| self.dims[at].clone()).collect();
        Self { dims, ..self.clone() }
    }

    /// The order of dimensions that makes `[batch, height, width, channels]` an image as ONNX sees it, where the
    /// channels are stored as channels.
    pub(crate) fn channels_to_front(&self) -> Option<Vec<usize>> {
        let (last, all) = (self.dims.last()?, self.stored.len());
        let fits = self.positions > 0 && (3..=4).contains(&self.rank());
        let is_last = fits && self.positions < all && self.in_order(&[last], self.positions, all);
        is_last.then(|| [0, self.rank() - 1].into_iter().chain(1..self.rank() - 1).collect())
    }

    /// Without the dimensions at these places, which have size 1.
    pub(crate) fn without(&self, places: &[usize]) -> Self {
        let kept = (0..self.rank()).filter(|at| !places.contains(at)).map(|at| self.dims[at].clone());
        Self { dims: kept.collect(), ..self.clone() }
    }

    /// The same numbers in their order, as a tensor of these dimensions; axes are split where they must be. `None` where
    /// a dimension would take part of an axis that cannot be split so, or parts of two.
    pub(crate) fn reshaped(&self, dims: &[Axis]) -> Option<Self> {
        let mut pieces = Pieces::new(self);
        let parts = dims.iter().map(|dim| match dim {
            Axis::Batch => pieces.batch().then_some(Part::Batch),
            Axis::Fixed(size) => pieces.take(*size).map(Part::Axes),
        });
        let parts = parts.collect::<Option<Vec<Part>>>()?;
        pieces.finish(self, parts)
    }

    /// For each stored channel, the place in a constant of these dimensions that meets it in elementwise arithmetic.
    pub(crate) fn channel_places(&self, constant: &[usize]) -> Result<Vec<usize>, Reason> {
        let mismatch = || {
            Reason::from(format!(
                "the constant has the shape {constant:?}, the activation {}",
                Dims(&self.dims())
            ))
        };
        let extra = constant.len().saturating_sub(self.rank());
        let (outer, constant) = constant.split_at(extra);
        if outer.iter().any(|&size| size != 1) {
            return Err(mismatch());
        }
        let mut strides = vec![0; self.stored.len()];
        let mut stride = 1;
        for (&size, part) in constant.iter().rev().zip(self.dims.iter().rev()) {
            if size != 1 {
                if *part == Part::Batch || self.size(part) != size {
                    return Err(mismatch());
                }
                self.set_strides(part, stride, &mut strides);
            }
            stride *= size;
        }
        if strides[..self.positions].iter().any(|&stride| stride != 0) {
            return Err(Reason::from(
                "the constant differs from position to position; it may differ from channel to channel",
            ));
        }
        Ok(self.by_column(places(&self.stored[self.positions..], &strides[self.positions..])))
    }

    /// What there is for each channel, as the axes have them, column by column; for one position after the other.
    fn by_column(&self, of_channels: Vec<usize>) -> Vec<usize> {
        let Some(order) = &self.order else { return of_channels };
        let mut of_columns = of_channels.clone();
        for (to, from) in of_columns.chunks_mut(order.len()).zip(of_channels.chunks(order.len())) {
            order.iter().zip(from).for_each(|(&column, &place)| to[column] = place);
        }
        of_columns
    }

    /// For each stored number of a sample, its place in the tensor's order.
    pub(crate) fn feature_places(&self) -> Vec<usize> {
        let mut strides = vec![0; self.stored.len()];
        let mut stride = 1;
        for part in self.dims.iter().rev() {
            self.set_strides(part, stride, &mut strides);
            stride *= self.size(part);
        }
        self.by_column(places(&self.stored, &strides))
    }

    fn set_strides(&self, part: &Part, inner: usize, strides: &mut [usize]) {
        let mut stride = inner;
        for &axis in part.axes().iter().rev() {
            strides[axis] = stride;
            stride *= self.stored[axis];
        }
    }
}

impl Part {
    fn axes(&self) -> &[usize] {
        match self {
            Self::Batch => &[],
            Self::Axes(axes) => axes,
        }
    }
}

/// The axes of a tensor in its order, to be taken from the front.
struct Pieces {
    /// The rest: the batch, or an axis and what is left of its size.
    rest: std::collections::VecDeque<Option<(usize, usize)>>,
    /// What was taken: an axis and the size of its piece.
    taken: Vec<(usize, usize)>,
}

impl Pieces {
    fn new(view: &View) -> Self {
        let units = view.dims.iter().flat_map(|part| match part {
            Part::Batch => vec![None],
            Part::Axes(axes) => axes.iter().map(|&axis| Some((axis, view.stored[axis]))).collect(),
        });
        Self { rest: units.collect(), taken: Vec::new() }
    }

    fn batch(&mut self) -> bool {
        self.rest.pop_front() == Some(None)
    }

    /// Axes that have this size together, as numbers of pieces.
    fn take(&mut self, size: usize) -> Option<Vec<usize>> {
        let mut wanted = size;
        let mut pieces = Vec::new();
        while wanted != 1 {
            let (axis, left) = (*self.rest.front()?)?;
            let piece = if wanted.is_multiple_of(left) { left } else { wanted };
            if piece == 0 || !left.is_multiple_of(piece) {
                return None;
            }
            match left / piece {
                1 => drop(self.rest.pop_front()),
                more => self.rest[0] = Some((axis, more)),
            }
            wanted /= piece;
            pieces.push(self.taken.len());
            self.taken.push((axis, piece));
        }
        Some(pieces)
    }

    /// The view whose axes are the pieces, in the order in which they are stored.
    fn finish(self, view: &View, mut parts: Vec<Part>) -> Option<View> {
        if !self.rest.is_empty() {
            return None;
        }
        // Pieces of one axis were taken outermost first.
        let mut order: Vec<usize> = (0..self.taken.len()).collect();
        order.sort_by_key(|&piece| self.taken[piece].0);
        let mut number = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &piece)| number[piece] = at);
        for part in &mut parts {
            if let Part::Axes(axes) = part {
                axes.iter_mut().for_each(|axis| *axis = number[*axis]);
            }
        }
        let stored = order.iter().map(|&piece| self.taken[piece].1).collect();
        let positions = self.taken.iter().filter(|(axis, _)| *axis < view.positions).count();
        Some(View { stored, positions, dims: parts, order: view.order.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(sizes: &[usize]) -> Vec<Axis> {
        std::iter::once(Axis::Batch).chain(sizes.iter().map(|&size| Axis::Fixed(size))).collect()
    }

    fn image(size: [usize; 2], channels: usize) -> View {
        View::image(Extent { size, channels, order: None }, 4)
    }

    #[test]
    fn flattening_an_image_says_where_its_numbers_are() {
        let flat = image([1, 3], 2).reshaped(&fixed(&[6])).unwrap();
        // Stored position after position, seen channel after channel.
        assert_eq!(flat.feature_places(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(flat.features().unwrap(), 6);
        assert!(!flat.is_plain());
    }

    #[test]
    fn views_come_back() {
        let view = image([4, 6], 10);
        let there = view.permuted(&[0, 2, 3, 1]);
        assert_eq!(there.dims(), fixed(&[4, 6, 10]));
        assert_eq!(there.feature_places(), (0..240).collect::<Vec<_>>());
        assert_eq!(there.permuted(&[0, 3, 1, 2]), view);
        let split = view.reshaped(&fixed(&[2, 5, 24])).unwrap();
        assert_eq!(split.reshaped(&fixed(&[10, 4, 6])).unwrap().dims(), view.dims());
        assert_eq!(split.feature_places(), view.feature_places());
    }

    #[test]
    fn what_mixes_axes_or_samples_is_refused() {
        assert_eq!(image([4, 6], 10).reshaped(&fixed(&[4, 60])), None);
        let turned = image([4, 6], 10).permuted(&[0, 2, 1, 3]);
        assert!(turned.as_image().is_err());
        assert_eq!(image([4, 6], 10).reshaped(&[Axis::Fixed(10), Axis::Batch, Axis::Fixed(24)]), None);
    }

    #[test]
    fn images_are_found_in_every_layout() {
        let extent = Extent { size: [4, 6], channels: 3, order: None };
        assert_eq!(image([4, 6], 3).as_image().unwrap(), (Layout::Image, extent.clone()));
        let first = View::flat(&fixed(&[3, 4, 6]));
        assert_eq!(first.as_image().unwrap(), (Layout::ChannelsFirst, extent.clone()));
        let last = View::flat(&fixed(&[4, 6, 3])).permuted(&[0, 3, 1, 2]);
        assert_eq!(last.as_image().unwrap(), (Layout::ChannelsLast, extent));
        let signal = View::flat(&fixed(&[3, 6])).as_image().unwrap();
        assert_eq!(signal, (Layout::ChannelsFirst, Extent { size: [1, 6], channels: 3, order: None }));
        assert_eq!(
            View::matrix(5).reshaped(&fixed(&[5, 1, 1])).unwrap().as_image().unwrap().0,
            Layout::Image
        );
    }

    #[test]
    fn a_shuffle_is_an_order_of_columns() {
        let apart = image([2, 2], 6).reshaped(&fixed(&[2, 3, 2, 2])).unwrap();
        let shuffled = apart.permuted(&[0, 2, 1, 3, 4]).reshaped(&fixed(&[6, 2, 2])).unwrap();
        let (layout, extent) = shuffled.as_image().unwrap();
        assert_eq!(layout, Layout::Image);
        assert_eq!(extent.order.as_deref(), Some(&[0, 3, 1, 4, 2, 5][..]));
        // The column of channel 1 is 3: there the constant's second number is.
        assert_eq!(shuffled.channel_places(&[6, 1, 1]).unwrap(), [0, 2, 4, 1, 3, 5]);
        // Where axes do not say it any longer, the order does.
        let again = View::image(extent, 4);
        assert_eq!(again.channel_places(&[6, 1, 1]).unwrap(), [0, 2, 4, 1, 3, 5]);
        let back = again.reshaped(&fixed(&[3, 2, 2, 2])).unwrap().permuted(&[0, 2, 1, 3, 4]);
        assert_eq!(back.reshaped(&fixed(&[6, 2, 2])).unwrap().as_image().unwrap().1.order, None);
    }

    #[test]
    fn constants_meet_channels() {
        let view = image([4, 6], 3);
        assert_eq!(view.channel_places(&[3, 1, 1]).unwrap(), [0, 1, 2]);
        assert_eq!(view.channel_places(&[1, 1, 3, 1, 1]).unwrap(), [0, 1, 2]);
        assert_eq!(view.channel_places(&[]).unwrap(), [0, 0, 0]);
        assert_eq!(view.permuted(&[0, 2, 3, 1]).channel_places(&[3]).unwrap(), [0, 1, 2]);
        assert!(view.channel_places(&[3]).is_err());
        assert!(view.channel_places(&[6]).is_err());
        assert!(view.channel_places(&[2, 1, 1, 1]).is_err());
    }
}
