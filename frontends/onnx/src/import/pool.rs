//! Pools: the largest or the mean of what each position sees, channel by channel.
//!
//! A mean is a sum and one multiplication. Sums over much are taken in steps of few taps, horizontally and then
//! vertically: the result is the same, and nobody has to look through hundreds of taps at once.

use ffc_ir::Handle;
use ffc_ir::module::{BinaryOp, PoolOp, Value};
use ffc_ir::window::Window;

use crate::graph::Node;
use crate::import::convolution::{Geometry, Rounded, pair, sizes};
use crate::import::{Data, Importer, Known, Reason, RmsPart, axis, rms};
use crate::view::{Extent, View};

/// Most taps that are looked through at once.
const TAPS: usize = 25;

/// Until opset 21.
pub(crate) fn max_pool_unclear<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    largest(importer, node, Rounded::UpIfClear)
}

pub(crate) fn max_pool<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    largest(importer, node, Rounded::Up)
}

/// Until opset 21.
pub(crate) fn average_pool_unclear<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    average(importer, node, Rounded::UpIfClear)
}

pub(crate) fn average_pool<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    average(importer, node, Rounded::Up)
}

fn largest<'m>(importer: &mut Importer<'m>, node: &'m Node, up: Rounded) -> Result<(), Reason> {
    let (_, window) = geometry(importer, node, up)?;
    pooled(importer, node, |importer, image| importer.builder.pool(PoolOp::Max, image, window), window)
}

fn average<'m>(importer: &mut Importer<'m>, node: &'m Node, up: Rounded) -> Result<(), Reason> {
    let (geometry, window) = geometry(importer, node, up)?;
    let (over_the_edge, over_the_padding) = geometry.reaches_over(&window);
    let counts_padding = node.int("count_include_pad", 0)? != 0;
    if over_the_padding || over_the_edge && !counts_padding {
        return Err(Reason::from(
            "a mean of fewer positions at the edge; one that counts padding (`count_include_pad`) is supported",
        ));
    }
    pooled(importer, node, |importer, image| mean(importer, image, window), window)
}

pub(crate) fn global_max_pool<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let window = global(importer, node)?;
    let largest = |importer: &mut Importer<'m>, image| in_steps(importer, PoolOp::Max, image, window);
    pooled(importer, node, largest, window)
}

pub(crate) fn global_average_pool<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let window = global(importer, node)?;
    pooled(importer, node, |importer, image| mean(importer, image, window), window)
}

fn global<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<Window, Reason> {
    let (_, extent) = importer.data(node, 0)?.view.as_image()?;
    Ok(Window::whole(extent.size))
}

/// The window that the attributes describe.
fn geometry<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    up: Rounded,
) -> Result<(Geometry, Window), Reason> {
    let data = importer.data(node, 0)?;
    let (_, extent) = data.view.as_image()?;
    let rank = data.view.rank() - 2;
    let kernel = pair(&sizes(node, "kernel_shape", rank, 1, 1)?, 1);
    let geometry = Geometry::of(node, rank)?;
    let rounded = if node.int("ceil_mode", 0)? == 0 { Rounded::Down } else { up };
    let window = geometry.window(extent.size, kernel, rounded)?;
    Ok((geometry, window))
}

fn pooled<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    pool: impl FnOnce(&mut Importer<'m>, Handle<Value>) -> Result<Handle<Value>, Reason>,
    window: Window,
) -> Result<(), Reason> {
    let data = importer.data(node, 0)?;
    let (image, extent) = importer.image(&data)?;
    let value = pool(importer, image)?;
    importer.built(node, value, View::image(Extent { size: window.output, ..extent }, data.view.rank()))
}

/// The mean of all taps, those beyond the edge among them.
fn mean(importer: &mut Importer<'_>, image: Handle<Value>, window: Window) -> Result<Handle<Value>, Reason> {
    let sum = in_steps(importer, PoolOp::Sum, image, window)?;
    importer.builder.with_number(BinaryOp::Mul, sum, 1.0 / window.taps() as f32)
}

fn in_steps(
    importer: &mut Importer<'_>,
    op: PoolOp,
    image: Handle<Value>,
    window: Window,
) -> Result<Handle<Value>, Reason> {
    let steps = if window == Window::tiles(window.input, window.kernel) {
        Window::tiles_in_steps(window.input, window.kernel)
    } else if window.taps() > TAPS && window.kernel.iter().all(|&taps| taps > 1) {
        by_axes(window)
    } else {
        vec![window]
    };
    steps.into_iter().try_fold(image, |image, step| importer.builder.pool(op, image, step))
}

/// Horizontally, then vertically.
fn by_axes(window: Window) -> Vec<Window> {
    let along = |axis: usize, input: [usize; 2]| {
        let mut step = Window::identity(input);
        step.output[axis] = window.output[axis];
        step.kernel[axis] = window.kernel[axis];
        step.stride[axis] = window.stride[axis];
        step.dilation[axis] = window.dilation[axis];
        step.pad[axis] = window.pad[axis];
        step
    };
    let horizontal = along(1, window.input);
    vec![horizontal, along(0, horizontal.output)]
}

/// Until opset 17 the axes are an attribute.
pub(crate) fn reduce_mean_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    reduce_mean(importer, node, node.ints("axes")?)
}

/// Since opset 18 the axes are an input.
pub(crate) fn reduce_mean_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let axes = importer.optional_folded(node, 1)?.map(|axes| axes.as_known()).transpose()?;
    reduce_mean(importer, node, axes)
}

/// The mean over positions, or that of a normalisation over everything of a sample.
fn reduce_mean<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    axes: Option<Vec<i64>>,
) -> Result<(), Reason> {
    let keeps = node.int("keepdims", 1)? != 0;
    if let Known::Rms(value, RmsPart::Square(rank)) = importer.known(node, 0)? {
        let axes = places(axes.as_deref(), rank)?;
        return if keeps && axes.iter().copied().eq(1..rank) {
            rms::mean(importer, node, value)
        } else {
            Err(Reason::from("a mean of squares that is not over all of a sample"))
        };
    }
    let data = importer.data(node, 0)?;
    let rank = data.view.rank();
    let reduced = places(axes.as_deref(), rank)?;
    let order = data.view.channels_to_front().unwrap_or_else(|| (0..rank).collect());
    let front = Data { view: data.view.permuted(&order), ..data };
    let (image, extent) = importer.image(&front)?;
    if reduced.iter().any(|at| *at == order[0] || *at == order[1]) {
        return Err(Reason::from("a mean that is not over positions"));
    }
    let mut kernel = [1; 2];
    for (place, at) in order[2..].iter().rev().enumerate() {
        if reduced.contains(at) {
            kernel[1 - place] = extent.size[1 - place];
        }
    }
    let window = Window::tiles(extent.size, kernel);
    let value = mean(importer, image, window)?;
    let view = View::image(Extent { size: window.output, ..extent }, rank);
    let mut back = vec![0; rank];
    order.iter().enumerate().for_each(|(at, &place)| back[place] = at);
    let view = view.permuted(&back);
    importer.built(node, value, if keeps { view } else { view.without(&reduced) })
}

/// Places of axes in ascending order, all where there are none.
fn places(axes: Option<&[i64]>, rank: usize) -> Result<Vec<usize>, Reason> {
    let mut places: Vec<usize> = match axes {
        None | Some([]) => (0..rank).collect(),
        Some(axes) => axes.iter().map(|&at| axis(at, rank)).collect::<Result<_, _>>()?,
    };
    places.sort_unstable();
    places.dedup();
    Ok(places)
}
