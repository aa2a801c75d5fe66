//! Channels taken apart and put together: Concat, Split and Slice of activations.
//!
//! All of them are about columns of the stored matrix, whatever order its channels are in: a part is the columns of its
//! channels, ascending, and remembers which is which ([`Extent::order`]). So a split behind a channel shuffle takes a few
//! ranges of columns, and nobody moves a channel.

use ffc_ir::Handle;
use ffc_ir::module::Value;

use crate::graph::Node;
use crate::import::{Data, Importer, Known, Reason, axis};
use crate::interface::SoftmaxTail;
use crate::view::{Dims, Extent, View, order};

/// An activation whose channels are the second dimension, and how that came to be.
struct Channels {
    value: Handle<Value>,
    extent: Extent,
    rank: usize,
    /// Whether the tensor has its channels last.
    last: bool,
}

impl Channels {
    /// The activation as channels along this axis.
    fn along(importer: &mut Importer<'_>, data: &Data, at: i64) -> Result<Self, Reason> {
        let rank = data.view.rank();
        let at = axis(at, rank)?;
        let turned = data.view.channels_to_front().filter(|_| at + 1 == rank);
        if at != 1 && turned.is_none() {
            let dims = data.view.dims();
            return Err(format!("axis {at} of {}, which is not the channels", Dims(&dims)).into());
        }
        let last = turned.is_some();
        if rank == 2 {
            let channels = data.view.features()?;
            if !data.view.is_matrix() {
                return Err(Reason::from("features of a flattened image"));
            }
            let extent = Extent { size: [1; 2], channels, order: data.view.feature_order() };
            return Ok(Self { value: data.value, extent, rank, last });
        }
        let data = match turned {
            Some(order) => Data { view: data.view.permuted(&order), ..data.clone() },
            None => data.clone(),
        };
        let (value, extent) = importer.image(&data)?;
        Ok(Self { value, extent, rank, last })
    }

    /// The view of channels like these.
    fn view(&self, extent: Extent) -> View {
        if self.rank == 2 {
            return View::matrix(extent.channels).ordered(extent.order);
        }
        let view = View::image(extent, self.rank);
        if self.last { view.permuted(&channels_to_back(self.rank)) } else { view }
    }

    /// Some of the channels.
    fn range(
        &self,
        importer: &mut Importer<'_>,
        data: &Data,
        from: usize,
        count: usize,
    ) -> Result<Data, Reason> {
        let columns: Vec<usize> = (from..from + count).map(|channel| self.extent.column(channel)).collect();
        let mut sorted = columns.clone();
        sorted.sort_unstable();
        let value = importer.builder.select(self.value, &sorted)?;
        let places = columns.iter().map(|column| sorted.binary_search(column).unwrap_or(0));
        let order = order(places.collect());
        let view = self.view(Extent { channels: count, order, ..self.extent.clone() });
        Ok(Data { value, view, normalized: data.normalized, softmax: SoftmaxTail::None })
    }
}

/// The order of dimensions that leads back from channels in front.
pub(crate) fn channels_to_back(rank: usize) -> Vec<usize> {
    std::iter::once(0).chain(2..rank).chain([1]).collect()
}

/// An image with its channels in the order in which the file sees them.
pub(crate) fn in_order(
    importer: &mut Importer<'_>,
    image: Handle<Value>,
    extent: &Extent,
) -> Result<Handle<Value>, Reason> {
    let columns: Vec<usize> = (0..extent.channels).map(|channel| extent.column(channel)).collect();
    let mut whole = None;
    for run in columns.chunk_by(|before, next| before + 1 == *next) {
        let part = importer.builder.select(image, run)?;
        whole = Some(match whole {
            None => part,
            Some(whole) => importer.builder.concat(whole, part)?,
        });
    }
    whole.ok_or_else(|| Reason::from("no channels"))
}

pub(crate) fn concat<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let mut parts = Vec::new();
    for position in 0..node.inputs.len() {
        parts.push(importer.contracted(node, position)?);
    }
    let at = node.int("axis", 0)?;
    // A normalised activation taken apart and put together again is still that.
    let source =
        |importer: &Importer<'_>, data: &Data| (importer.builder.sliced(data.value), data.normalized);
    let first = parts.first().map(|data| source(importer, data)).unwrap_or_default();
    let is_one = first.0.is_some() && parts.iter().all(|data| source(importer, data) == first);
    let mut whole: Option<Channels> = None;
    for data in parts {
        let data = if is_one { data } else { importer.joined(data) };
        let part = Channels::along(importer, &data, at)?;
        whole = Some(match whole {
            None => part,
            Some(whole) => joined(importer, whole, &part)?,
        });
    }
    let whole = whole.ok_or_else(|| Reason::from("nothing to put together"))?;
    if importer.builder.is_input(whole.value) {
        return Err(Reason::from("the network's input, taken apart or put together by itself"));
    }
    let (value, view) = (whole.value, whole.view(whole.extent.clone()));
    let normalized = if is_one { first.1 } else { None };
    importer.set(node, Known::Data(Data { value, view, normalized, softmax: SoftmaxTail::None }))
}

fn joined(importer: &mut Importer<'_>, whole: Channels, part: &Channels) -> Result<Channels, Reason> {
    let (a, b) = (&whole.extent, &part.extent);
    if a.size != b.size || (whole.rank, whole.last) != (part.rank, part.last) {
        return Err(format!("{:?} positions beside {:?}", a.size, b.size).into());
    }
    importer.builder.charge(a.channels + b.channels)?;
    let first = (0..a.channels).map(|channel| a.column(channel));
    let second = (0..b.channels).map(|channel| a.channels + b.column(channel));
    let order = order(first.chain(second).collect());
    let extent = Extent { channels: a.channels + b.channels, order, ..a.clone() };
    let value = importer.builder.concat(whole.value, part.value)?;
    Ok(Channels { value, extent, ..whole })
}

/// A range of channels.
pub(crate) fn slice<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    starts: &[i64],
    ends: &[i64],
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
) -> Result<(), Reason> {
    let data = importer.contracted(node, 0)?;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let (&[start], &[end], &[at], None | Some([1])) = (
        starts,
        ends,
        axes.as_slice(),
        steps.as_deref().map(|steps| steps.first_chunk().copied()).unwrap_or_default(),
    ) else {
        return Err(Reason::from("only a plain range of channels is supported"));
    };
    let channels = Channels::along(importer, &data, at)?;
    let all = channels.extent.channels as i64;
    let place = |at: i64| if at < 0 { at.saturating_add(all).max(0) } else { at.min(all) };
    let (start, end) = (place(start), place(end));
    if start >= end {
        return Err(Reason::from("a range without channels"));
    }
    let data = channels.range(importer, &data, start as usize, (end - start) as usize)?;
    importer.set(node, Known::Data(data))
}

/// Until opset 12 the sizes are an attribute.
pub(crate) fn split_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    split(importer, node, node.ints("split")?)
}

/// Since opset 13 the sizes are an input.
pub(crate) fn split_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let sizes = importer.optional_folded(node, 1)?.map(|sizes| sizes.as_known()).transpose()?;
    split(importer, node, sizes)
}

fn split<'m>(importer: &mut Importer<'m>, node: &'m Node, sizes: Option<Vec<i64>>) -> Result<(), Reason> {
    let data = importer.contracted(node, 0)?;
    let channels = Channels::along(importer, &data, node.int("axis", 0)?)?;
    let (all, count) = (channels.extent.channels, node.outputs.len());
    let sizes = match sizes {
        Some(sizes) => sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect(),
        // Equal parts, the last one perhaps smaller.
        None => {
            let part = all.div_ceil(count.max(1));
            (0..count).map(|at| all.saturating_sub(at * part).min(part)).collect::<Vec<_>>()
        }
    };
    let total = sizes.iter().try_fold(0usize, |all, &size| all.checked_add(size));
    if sizes.len() != count || total != Some(all) || sizes.contains(&0) {
        return Err(format!("{all} channels split into {sizes:?} for {count} outputs").into());
    }
    let mut from = 0;
    for (output, size) in node.outputs.iter().zip(sizes) {
        let part = channels.range(importer, &data, from, size)?;
        importer.values.insert(output, Known::Data(part));
        from += size;
    }
    Ok(())
}
