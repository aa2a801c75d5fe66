//! Convolutions, and the geometry that they share with pools.
//!
//! A convolution is a dense layer of what each position sees through a window, so its weight `[filters, channels, height,
//! width]` becomes a matrix: a row for each filter, tap after tap, the channels of a tap side by side. In groups it is
//! several convolutions, each of its channels, side by side; where each group is one channel, it is a filter of its own.

use ffc_ir::Handle;
use ffc_ir::module::{PoolOp, Value};
use ffc_ir::window::Window;

use crate::graph::Node;
use crate::import::dense::row;
use crate::import::{Importer, Known, Reason, axis};
use crate::names;
use crate::network::Matrix;
use crate::numbers::Numbers;
use crate::view::{Dims, Extent, View};

pub(crate) fn convolution<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let data = importer.contracted(node, 0)?;
    let weight = importer.folded(node, 1)?;
    let (&[filters, depth], kernel) = match weight.dims.split_first_chunk() {
        Some(parts) if (1..=2).contains(&parts.1.len()) => parts,
        _ => return Err(format!("a weight of {} dimensions, not 3 or 4", weight.dims.len()).into()),
    };
    let rank = kernel.len();
    let declared = node.ints("kernel_shape")?;
    if declared.is_some_and(|declared| !declared.iter().copied().eq(kernel.iter().map(|&size| size as i64))) {
        return Err(format!("attribute `kernel_shape` is not that of the weight, {kernel:?}").into());
    }
    if data.view.rank() != rank + 2 {
        let dims = data.view.dims();
        return Err(
            format!("a weight of {} dimensions, an activation of shape {}", rank + 2, Dims(&dims)).into()
        );
    }
    let (value, extent) = importer.image(&data)?;
    let kernel = if rank == 1 { [1, kernel[0]] } else { [kernel[0], kernel[1]] };
    let window = Geometry::of(node, rank)?.window(extent.size, kernel, Rounded::Down)?;
    let group = usize::try_from(node.int("group", 1)?).unwrap_or(0);
    if group == 0 || depth.checked_mul(group) != Some(extent.channels) || filters % group != 0 {
        let channels = extent.channels;
        return Err(
            format!("a weight of {:?} in {group} groups, for {channels} channels", weight.dims).into()
        );
    }
    let taps = window.taps();
    importer.builder.charge_weight([filters, depth.saturating_mul(taps)])?;
    // Taps before channels.
    let values = weight.as_numbers()?.clone().transposed(depth, taps);
    let bias = importer.optional_folded(node, 2)?.map(|bias| row(&bias, filters)).transpose()?;
    let layer = names::layer(node, node.inputs.get(1).map_or("", String::as_str));
    let filter = Filters { window, layer, depth, values, bias };
    let input = (value, data.normalized);
    let size = window.output;
    if depth == 1 && filters == group && group > 1 {
        let value = filter.depthwise(importer, input, &extent)?;
        return importer.built(node, value, View::image(Extent { size, ..extent }, rank + 2));
    }
    let value = filter.grouped(importer, input, &extent, group)?;
    importer.built(node, value, View::image(Extent { size, channels: filters, order: None }, rank + 2))
}

/// More groups than are worth a contraction each.
const GROUPS: usize = 64;

/// The filters of a convolution, `[filters, taps, depth]`, and a bias for each.
struct Filters {
    window: Window,
    layer: Option<String>,
    depth: usize,
    values: Numbers,
    bias: Option<Vec<f32>>,
}

type Input = (Handle<Value>, Option<f32>);

impl Filters {
    /// A filter for each channel.
    fn depthwise(
        self,
        importer: &mut Importer<'_>,
        input: Input,
        extent: &Extent,
    ) -> Result<Handle<Value>, Reason> {
        let taps = self.window.taps();
        let values = by_column(self.values, taps, extent);
        let matrix = Matrix { outputs: extent.channels, inputs: taps, values };
        let value = importer.builder.depthwise(input, self.window, self.layer.clone(), matrix)?;
        match self.bias {
            Some(bias) => importer.builder.bias(value, self.layer, by_column(bias.into(), 1, extent)),
            None => Ok(value),
        }
    }

    /// A convolution for each group of channels, side by side.
    fn grouped(
        self,
        importer: &mut Importer<'_>,
        (image, normalized): Input,
        extent: &Extent,
        groups: usize,
    ) -> Result<Handle<Value>, Reason> {
        if groups > GROUPS {
            let depth = self.depth;
            return Err(format!(
                "{groups} groups of {depth} channels, more than {GROUPS}, each of which is a contraction"
            )
            .into());
        }
        let inputs = self.window.taps().saturating_mul(self.depth);
        let outputs = self.values.len() / inputs.max(1) / groups;
        let mut parts = Vec::new();
        for group in 0..groups {
            let channels = group * self.depth..(group + 1) * self.depth;
            let columns: Vec<usize> = channels.map(|channel| extent.column(channel)).collect();
            let mut sorted = columns.clone();
            sorted.sort_unstable();
            let places: Vec<usize> = sorted
                .iter()
                .map(|column| columns.iter().position(|other| other == column).unwrap_or(0))
                .collect();
            let weights = outputs * inputs;
            let values = self.values.clone().part(group * weights, weights).picked(places);
            let part = importer.builder.select(image, &sorted)?;
            let matrix = Matrix { outputs, inputs, values };
            let input = (part, normalized);
            let mut value = importer.builder.dense(input, Some(self.window), self.layer.clone(), matrix)?;
            if let Some(bias) = &self.bias {
                let bias = bias[group * outputs..][..outputs].to_vec();
                value = importer.builder.bias(value, self.layer.clone(), bias.into())?;
            }
            parts.push(value);
        }
        let (first, rest) = parts.split_first().ok_or_else(|| Reason::from("no groups"))?;
        rest.iter().try_fold(*first, |whole, &part| importer.builder.concat(whole, part))
    }
}

/// So many numbers for each channel, column by column.
fn by_column(values: Numbers, count: usize, extent: &Extent) -> Numbers {
    let mut places: Vec<usize> = (0..values.len()).collect();
    for channel in 0..values.len() / count.max(1) {
        let to = extent.column(channel) * count;
        places[to..to + count].iter_mut().enumerate().for_each(|(at, place)| *place = channel * count + at);
    }
    values.picked(places)
}

/// Sizes beyond this are no window's.
const LARGEST: i64 = 1 << 15;

/// How a window moves, as the attributes of convolutions and pools say it.
pub(crate) struct Geometry {
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: Padding,
}

/// How many positions the result has where the input is not a multiple of the stride.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Rounded {
    Down,
    /// The last position may see beyond the edge, as long as what it sees begins before it.
    Up,
    /// Until opset 21 nothing says what the last position is that begins beyond the edge.
    UpIfClear,
}

/// What is around the image.
#[derive(Clone, Copy)]
enum Padding {
    /// As many before and behind.
    Given { before: [usize; 2], behind: [usize; 2] },
    /// As many as it takes for the result to be the input's size divided by the stride; an odd one before or behind.
    Same { odd_before: bool },
}

impl Geometry {
    /// For so many spatial dimensions.
    pub(crate) fn of(node: &Node, rank: usize) -> Result<Self, Reason> {
        let none = Padding::Given { before: [0; 2], behind: [0; 2] };
        let padding = match node.text("auto_pad", "NOTSET")? {
            "NOTSET" => {
                let pads = sizes(node, "pads", 2 * rank, 0, 0)?;
                let (before, behind) = pads.split_at(rank);
                Padding::Given { before: pair(before, 0), behind: pair(behind, 0) }
            }
            "VALID" => none,
            "SAME_UPPER" => Padding::Same { odd_before: false },
            "SAME_LOWER" => Padding::Same { odd_before: true },
            other => return Err(format!("attribute `auto_pad` is `{other}`").into()),
        };
        Ok(Self {
            stride: pair(&sizes(node, "strides", rank, 1, 1)?, 1),
            dilation: pair(&sizes(node, "dilations", rank, 1, 1)?, 1),
            padding,
        })
    }

    /// The window of these taps over this image.
    pub(crate) fn window(
        &self,
        input: [usize; 2],
        kernel: [usize; 2],
        rounded: Rounded,
    ) -> Result<Window, Reason> {
        let mut window = Window::new(input, [1; 2], kernel, self.stride, [0; 2]);
        window.dilation = self.dilation;
        for axis in 0..2 {
            let (before, output) = self.along(axis, input[axis], kernel[axis], rounded)?;
            window.pad[axis] = before as isize;
            window.output[axis] = output;
        }
        match window.fault() {
            Some(fault) => Err(format!("its window {fault}").into()),
            None => Ok(window),
        }
    }

    /// Padding before the first position, and positions of the result.
    fn along(
        &self,
        axis: usize,
        input: usize,
        kernel: usize,
        rounded: Rounded,
    ) -> Result<(usize, usize), Reason> {
        let stride = self.stride[axis];
        let reach = kernel.saturating_sub(1).saturating_mul(self.dilation[axis]).saturating_add(1);
        let (before, behind) = match self.padding {
            Padding::Given { before, behind } => (before[axis], behind[axis]),
            Padding::Same { odd_before } => {
                let output = input.div_ceil(stride);
                let all = ((output.saturating_sub(1)) * stride).saturating_add(reach).saturating_sub(input);
                let before = if odd_before { all.div_ceil(2) } else { all / 2 };
                return Ok((before, output));
            }
        };
        let Some(way) = (input + before + behind).checked_sub(reach) else {
            return Err(format!("{kernel} taps, reaching over {reach}, do not fit {input} positions").into());
        };
        if rounded == Rounded::Down {
            return Ok((before, way / stride + 1));
        }
        let output = way.div_ceil(stride) + 1;
        let begins_behind = (output - 1) * stride >= input + before;
        if begins_behind && rounded == Rounded::UpIfClear {
            return Err(Reason::from("a last window that begins in the padding, which opset 22 leaves out"));
        }
        Ok((before, output - usize::from(begins_behind)))
    }

    /// Whether some position sees what is beyond the edge, and whether one sees beyond the padding.
    pub(crate) fn reaches_over(&self, window: &Window) -> (bool, bool) {
        let behind = match self.padding {
            Padding::Given { behind, .. } => behind,
            Padding::Same { .. } => [usize::MAX / 2; 2],
        };
        let over = |axis: usize, behind: usize| {
            let last = (window.output[axis] - 1) * window.stride[axis]
                + (window.kernel[axis] - 1) * window.dilation[axis];
            last as isize - window.pad[axis] >= (window.input[axis] + behind) as isize
        };
        let edge = window.pad != [0; 2] || over(0, 0) || over(1, 0);
        (edge, over(0, behind[0]) || over(1, behind[1]))
    }
}

/// A list of so many numbers; all the same where it is absent.
pub(crate) fn sizes(
    node: &Node,
    name: &str,
    count: usize,
    absent: usize,
    least: i64,
) -> Result<Vec<usize>, Reason> {
    let Some(values) = node.ints(name)? else { return Ok(vec![absent; count]) };
    if values.len() != count {
        return Err(format!("attribute `{name}` has {} numbers, not {count}", values.len()).into());
    }
    match values.iter().find(|value| !(least..=LARGEST).contains(value)) {
        Some(value) => Err(format!("attribute `{name}` has {value}, not from {least} to {LARGEST}").into()),
        None => Ok(values.iter().map(|&value| value as usize).collect()),
    }
}

/// Vertical and horizontal, of a list that may lack the vertical.
pub(crate) fn pair(list: &[usize], absent: usize) -> [usize; 2] {
    match list {
        [width] => [absent, *width],
        [height, width, ..] => [*height, *width],
        [] => [absent; 2],
    }
}

/// Until opset 10 the pads are an attribute.
pub(crate) fn pad_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let pads = node.ints("pads")?.unwrap_or_default();
    pad(importer, node, &pads, node.float("value", 0.0)?, None)
}

/// Since opset 11 the pads are an input.
pub(crate) fn pad_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let pads = importer.folded(node, 1)?.as_known()?;
    let value = importer.optional_folded(node, 2)?.map_or(Ok(0.0), |value| value.as_scalar())?;
    let axes = importer.optional_folded(node, 3)?.map(|axes| axes.as_known()).transpose()?;
    pad(importer, node, &pads, value, axes)
}

/// Zeros around an image: a sum over a window of one tap, where there is nothing beyond the edge. What follows looks at
/// the image itself, if it can.
fn pad<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    pads: &[i64],
    value: f32,
    axes: Option<Vec<i64>>,
) -> Result<(), Reason> {
    if node.text("mode", "constant")? != "constant" || value != 0.0 {
        return Err(Reason::from("padding with anything but zeros"));
    }
    let mut data = importer.data(node, 0)?;
    let rank = data.view.rank();
    let axes = axes.unwrap_or_else(|| (0..rank as i64).collect());
    if pads.len() != 2 * axes.len() {
        return Err(format!("{} pads for {} dimensions", pads.len(), axes.len()).into());
    }
    let order = data.view.channels_to_front();
    let mut around = vec![[0i64; 2]; rank];
    for (at, &place) in axes.iter().enumerate() {
        around[axis(place, rank)?] = [pads[at], pads[at + axes.len()]];
    }
    if around.iter().all(|&pads| pads == [0; 2]) {
        return importer.set(node, Known::Data(data));
    }
    if let Some(order) = &order {
        data.view = data.view.permuted(order);
        around = order.iter().map(|&at| around[at]).collect();
    }
    let (image, extent) = importer.image(&data)?;
    if around[..2].iter().any(|&pads| pads != [0; 2]) {
        return Err(Reason::from("padding of the batch or of channels"));
    }
    let mut window = Window::identity(extent.size);
    for (place, [before, behind]) in around[2..].iter().rev().enumerate() {
        let size = extent.size[1 - place] as i64;
        let padded = before.checked_add(*behind).and_then(|pads| pads.checked_add(size));
        let padded = padded.filter(|padded| (1..=LARGEST).contains(padded) && before.abs() <= LARGEST);
        let padded = padded
            .ok_or_else(|| Reason::from(format!("{size} positions padded by {before} and {behind}")))?;
        window.output[1 - place] = padded as usize;
        window.pad[1 - place] = *before as isize;
    }
    let value = importer.builder.pool(PoolOp::Sum, image, window)?;
    let view = View::image(Extent { size: window.output, ..extent }, rank);
    let back: Vec<usize> = (0..rank)
        .map(|at| {
            if at == 0 {
                0
            } else if at + 1 == rank {
                1
            } else {
                at + 1
            }
        })
        .collect();
    importer.built(node, value, if order.is_some() { view.permuted(&back) } else { view })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_as_large_as_the_padding_says() {
        let along = |padding, input, kernel, stride, rounded| {
            let geometry = Geometry { stride: [stride; 2], dilation: [1; 2], padding };
            geometry.along(0, input, kernel, rounded).unwrap()
        };
        let given = |before, behind| Padding::Given { before: [before; 2], behind: [behind; 2] };
        assert_eq!(along(given(1, 1), 7, 3, 2, Rounded::Down), (1, 4));
        assert_eq!(along(given(0, 0), 8, 3, 2, Rounded::Down), (0, 3));
        assert_eq!(along(given(0, 0), 8, 3, 2, Rounded::Up), (0, 4));
        // The fourth window would begin in the padding behind.
        assert_eq!(along(given(0, 1), 6, 1, 2, Rounded::Up), (0, 3));
        assert_eq!(along(Padding::Same { odd_before: false }, 8, 3, 2, Rounded::Down), (0, 4));
        assert_eq!(along(Padding::Same { odd_before: true }, 8, 3, 2, Rounded::Down), (1, 4));
        let unclear = Geometry { stride: [2; 2], dilation: [1; 2], padding: given(0, 1) };
        assert!(unclear.along(0, 6, 1, Rounded::UpIfClear).is_err());
        assert_eq!(unclear.along(0, 7, 3, Rounded::UpIfClear).unwrap(), (0, 4));
        let wide = Geometry { stride: [1; 2], dilation: [3; 2], padding: given(0, 0) };
        assert!(wide.along(0, 6, 3, Rounded::Down).is_err());
    }
}
