//! Operators that move nothing: constants, shapes, and views of the activation.
//!
//! A view of an activation ([`View`](crate::view::View)) is fine as long as the batch stays the outermost dimension;
//! then it vanishes.

use crate::fold::{Elements, Folded, Int};
use crate::graph::{Attribute, Node};
use crate::import::{Data, Importer, Known, Reason, axis, columns};
use crate::tensor::ElementType;
use crate::view::{Axis, Dims, RANK};

pub(crate) fn constant<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let int = |&value: &i64| Int::new(value);
    let floats = |values: Vec<f32>, dims| Folded { dims, elements: Elements::Floats(values.into()) };
    let mut attributes = node.attributes.values();
    let folded = match (attributes.next(), attributes.next()) {
        (Some(Attribute::Tensor(tensor)), None) => Folded::of(tensor),
        (Some(Attribute::Int(value)), None) => Folded::scalar(int(value)),
        (Some(Attribute::Ints(values)), None) => Folded::ints(values.iter().map(int).collect()),
        (Some(Attribute::Float(value)), None) => floats(vec![*value], Vec::new()),
        (Some(Attribute::Floats(values)), None) => floats(values.clone(), vec![values.len()]),
        _ => return Err(Reason::from("not one constant value")),
    };
    importer.set(node, Known::Folded(folded))
}

pub(crate) fn constant_of_shape<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let dims = importer.folded(node, 0)?;
    if dims.as_ints()?.iter().any(|int| int.batch) {
        // Only what is as random as a batch is large needs this.
        return importer.set(node, Known::Noise);
    }
    let dims = dims.as_known()?;
    let tensor = match node.attributes.get("value") {
        Some(Attribute::Tensor(tensor)) => Some(tensor),
        _ => None,
    };
    let number = tensor.map(|tensor| (tensor.integers(), Folded::of(tensor).as_scalar()));
    let folded = match number {
        None => Folded::repeated(&dims, 0.0)?,
        Some((Some(integers), _)) if integers.len() == 1 => Folded::filled(&dims, Int::new(integers[0]))?,
        Some((_, Ok(number))) => Folded::repeated(&dims, number)?,
        Some(_) => return Err(Reason::from("attribute `value` is not one number")),
    };
    importer.set(node, Known::Folded(folded))
}

pub(crate) fn identity<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let known = importer.known(node, 0)?;
    importer.set(node, known)
}

/// Precision does not matter: all that is trained is single precision at first, and shapes are integers.
pub(crate) fn cast<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let to = ElementType::from_code(node.int("to", 0)?);
    let to_float = to.is_some_and(ElementType::is_float);
    let to_int = matches!(to, Some(ElementType::I32 | ElementType::I64));
    let known = importer.known(node, 0)?;
    let vanishes = match &known {
        Known::Data(_) => to_float,
        Known::Labels | Known::Noise => true,
        Known::Folded(Folded { elements: Elements::Ints(_), .. }) => to_int,
        Known::Folded(Folded { elements: Elements::Floats(_), .. }) => to_float,
        _ => false,
    };
    match vanishes {
        true => importer.set(node, known),
        false => Err(Reason::from("a cast between numbers of different kinds")),
    }
}

pub(crate) fn shape<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let shape = match importer.known(node, 0)? {
        Known::Data(data) => data.view.dims().iter().map(|axis| axis.int()).collect(),
        Known::Folded(folded) => folded.dims.iter().map(|&dim| Int::new(dim as i64)).collect(),
        _ => return Err(Reason::from("the shape of a value that is no activation")),
    };
    let shape = Folded::ints(shape);
    let part = shape.slice(node.int("start", 0)?, node.int("end", i64::MAX)?)?;
    importer.set(node, Known::Folded(part))
}

pub(crate) fn gather<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let items = importer.folded(node, 0)?;
    axis(node.int("axis", 0)?, 1)?;
    let picked = items.gather(&importer.folded(node, 1)?)?;
    importer.set(node, Known::Folded(picked))
}

/// Until opset 9 the ranges are attributes.
pub(crate) fn slice_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let list = |name: &str| node.ints(name).map(Option::unwrap_or_default);
    slice(importer, node, &list("starts")?, &list("ends")?, node.ints("axes")?, None)
}

/// Since opset 10 the ranges are inputs.
pub(crate) fn slice_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let starts = importer.folded(node, 1)?.as_known()?;
    let ends = importer.folded(node, 2)?.as_known()?;
    let mut list =
        |position| importer.optional_folded(node, position)?.map(|list| list.as_known()).transpose();
    let (axes, steps) = (list(3)?, list(4)?);
    slice(importer, node, &starts, &ends, axes, steps)
}

fn slice<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    starts: &[i64],
    ends: &[i64],
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
) -> Result<(), Reason> {
    if matches!(importer.known(node, 0)?, Known::Data(_)) {
        return columns::slice(importer, node, starts, ends, axes, steps);
    }
    let first = axes.is_none_or(|axes| matches!(axes.as_slice(), [only] if axis(*only, 1) == Ok(0)));
    let plain = steps.is_none_or(|steps| steps == [1]);
    match (starts, ends) {
        (&[start], &[end]) if first && plain => {
            let part = importer.folded(node, 0)?.slice(start, end)?;
            importer.set(node, Known::Folded(part))
        }
        _ => Err(Reason::from("only a plain range of a shape is supported")),
    }
}

pub(crate) fn concat<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    for position in 0..node.inputs.len() {
        if matches!(importer.known(node, position)?, Known::Data(_)) {
            return columns::concat(importer, node);
        }
    }
    let mut parts = Vec::new();
    for position in 0..node.inputs.len() {
        parts.push(importer.folded(node, position)?);
    }
    axis(node.int("axis", 0)?, 1)?;
    importer.set(node, Known::Folded(Folded::concat(parts.iter())?))
}

/// Until opset 12 the axes are an attribute.
pub(crate) fn squeeze_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    squeeze(importer, node, node.ints("axes")?)
}

/// Since opset 13 the axes are an input.
pub(crate) fn squeeze_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let axes = importer.optional_folded(node, 1)?.map(|axes| axes.as_known()).transpose()?;
    squeeze(importer, node, axes)
}

fn squeeze<'m>(importer: &mut Importer<'m>, node: &'m Node, axes: Option<Vec<i64>>) -> Result<(), Reason> {
    match importer.known(node, 0)? {
        Known::Folded(folded) => {
            let dims = squeezed(&folded.dims, 1, axes)?;
            importer.set(node, Known::Folded(folded.reshaped(dims)))
        }
        Known::Data(data) => {
            let dims = squeezed(&data.view.dims(), Axis::Fixed(1), axes)?;
            view(importer, node, data, &dims)
        }
        Known::Labels => importer.set(node, Known::Labels),
        _ => Err(Reason::from("input 0 is not an activation")),
    }
}

/// The dimensions without those of size 1, all or at these axes.
fn squeezed<T: Copy + PartialEq>(dims: &[T], one: T, axes: Option<Vec<i64>>) -> Result<Vec<T>, Reason> {
    let axes = axes
        .map(|axes| axes.iter().map(|&at| axis(at, dims.len())).collect::<Result<Vec<_>, _>>())
        .transpose()?;
    let goes = |at: usize| axes.as_ref().map_or(dims[at] == one, |axes| axes.contains(&at));
    match (0..dims.len()).find(|&at| goes(at) && dims[at] != one) {
        Some(at) => Err(format!("dimension {at} is not of size 1").into()),
        None => Ok((0..dims.len()).filter(|&at| !goes(at)).map(|at| dims[at]).collect()),
    }
}

/// Until opset 12 the axes are an attribute.
pub(crate) fn unsqueeze_attributes<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    unsqueeze(importer, node, &node.ints("axes")?.unwrap_or_default())
}

/// Since opset 13 the axes are an input.
pub(crate) fn unsqueeze_inputs<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let axes = importer.folded(node, 1)?.as_known()?;
    unsqueeze(importer, node, &axes)
}

fn unsqueeze<'m>(importer: &mut Importer<'m>, node: &'m Node, axes: &[i64]) -> Result<(), Reason> {
    match importer.known(node, 0)? {
        Known::Folded(folded) => {
            let dims = unsqueezed(&folded.dims, 1, axes)?;
            importer.set(node, Known::Folded(folded.reshaped(dims)))
        }
        Known::Data(data) => {
            let dims = unsqueezed(&data.view.dims(), Axis::Fixed(1), axes)?;
            view(importer, node, data, &dims)
        }
        _ => Err(Reason::from("input 0 is not an activation")),
    }
}

/// The dimensions with a size of 1 at each of these axes of the result.
fn unsqueezed<T: Copy>(dims: &[T], one: T, axes: &[i64]) -> Result<Vec<T>, Reason> {
    let rank = dims.len() + axes.len();
    let mut places = axes.iter().map(|&at| axis(at, rank)).collect::<Result<Vec<_>, _>>()?;
    places.sort_unstable();
    places.dedup();
    if places.len() != axes.len() || rank > RANK {
        return Err(format!("axes {axes:?}").into());
    }
    let mut old = dims.iter().copied();
    Ok((0..rank).map(|at| if places.contains(&at) { one } else { old.next().unwrap_or(one) }).collect())
}

pub(crate) fn flatten<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let data = activation(importer, node)?;
    let dims = data.view.dims();
    let at = match node.int("axis", 1)? {
        end if end == dims.len() as i64 => dims.len(),
        at => axis(at, dims.len())?,
    };
    let (outer, inner) = dims.split_at(at);
    let outer_is_batch = outer.iter().filter(|&&axis| axis != Axis::Fixed(1)).eq([&Axis::Batch]);
    match size(inner) {
        Some(features) if outer_is_batch => view(importer, node, data, &[Axis::Batch, Axis::Fixed(features)]),
        _ => Err(format!("flattening {} at axis {at} does not give [batch, features]", Dims(&dims)).into()),
    }
}

/// The activation, normalised or not.
fn activation<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<Data, Reason> {
    importer.contracted(node, 0)
}

/// The product of dimensions without the batch.
fn size(dims: &[Axis]) -> Option<usize> {
    dims.iter().try_fold(1usize, |all, axis| match axis {
        Axis::Batch => None,
        Axis::Fixed(size) => all.checked_mul(*size),
    })
}

pub(crate) fn transpose<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let known = importer.known(node, 0)?;
    let perm = node.ints("perm")?;
    if let Known::Folded(folded) = known {
        let order = order(perm, folded.dims.len())?;
        importer.builder.charge(folded.dims.iter().product())?;
        return importer.set(node, Known::Folded(folded.permuted(&order)?));
    }
    let data = activation(importer, node)?;
    let order = order(perm, data.view.rank())?;
    let turned = data.view.permuted(&order);
    starts_with_batch(&turned.dims())?;
    importer.set(node, Known::Data(Data { view: turned, ..data }))
}

/// Where each dimension comes from; without a permutation they are reversed.
fn order(perm: Option<Vec<i64>>, rank: usize) -> Result<Vec<usize>, Reason> {
    let Some(perm) = perm else { return Ok((0..rank).rev().collect()) };
    let places = perm.iter().map(|&at| usize::try_from(at).ok().filter(|&at| at < rank));
    let places: Option<Vec<usize>> = places.collect();
    let is_permutation =
        |places: &Vec<usize>| places.len() == rank && (0..rank).all(|at| places.contains(&at));
    places
        .filter(is_permutation)
        .ok_or_else(|| format!("{perm:?} is no permutation of {rank} dimensions").into())
}

pub(crate) fn reshape<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let target = importer.folded(node, 1)?;
    let target = target.as_ints()?;
    let copies_zero = node.int("allowzero", 0)? == 0;
    match importer.known(node, 0)? {
        Known::Labels => importer.set(node, Known::Labels),
        Known::Folded(folded) => {
            let dims: Vec<Axis> = folded.dims.iter().map(|&dim| Axis::Fixed(dim)).collect();
            let sizes = resolve(&dims, target, copies_zero, None)?;
            let dims = sizes.iter().map(|axis| size(&[*axis])).collect::<Option<_>>();
            let dims = dims.ok_or_else(|| Reason::from("a constant reshaped to the batch"))?;
            importer.set(node, Known::Folded(folded.reshaped(dims)))
        }
        Known::Data(data) => {
            let batch = importer.batch;
            let dims = resolve(&data.view.dims(), target, copies_zero, batch)?;
            view(importer, node, data, &dims)
        }
        _ => Err(Reason::from("input 0 is not an activation")),
    }
}

/// The dimensions that a reshape gives.
fn resolve(
    dims: &[Axis],
    target: &[Int],
    copies_zero: bool,
    batch: Option<usize>,
) -> Result<Vec<Axis>, Reason> {
    let refused = || {
        let target: Vec<String> = target.iter().map(Int::to_string).collect();
        Reason::from(format!(
            "reshaping {} to [{}] does not keep [batch, features]",
            Dims(dims),
            target.join(", ")
        ))
    };
    if target.len() > RANK {
        return Err(refused());
    }
    let copied = target.iter().enumerate().map(|(at, &int)| match int {
        Int { factor: 0, batch: false } if copies_zero => dims.get(at).map(|axis| axis.int()),
        int => Some(int),
    });
    let target: Vec<Int> = copied.collect::<Option<_>>().ok_or_else(refused)?;
    let symbolic = target.iter().any(|int| int.batch);
    let result = match batch {
        Some(batch) if !symbolic => fixed(dims, &target, batch),
        _ => inferred(dims, &target),
    };
    result.ok_or_else(refused)
}

/// With a symbolic batch: `-1` is what is left, the batch among it.
fn inferred(dims: &[Axis], target: &[Int]) -> Option<Vec<Axis>> {
    let features = size(&rest(dims))?;
    let has_batch = dims.contains(&Axis::Batch);
    let is_free = |int: &&Int| **int == Int::new(-1);
    let mut known = target.iter().filter(|int| !is_free(int));
    let product = known.try_fold(1usize, |all, int| all.checked_mul(usize::try_from(int.factor).ok()?))?;
    let batches = target.iter().filter(|int| int.batch).count();
    let free = target.iter().filter(is_free).count();
    let left = features.checked_div(product).filter(|left| left * product == features);
    let takes_batch = has_batch && batches == 0;
    let open = match (free, takes_batch) {
        (0, false) => (features == product).then_some(Axis::Fixed(1)),
        (1, false) => left.map(Axis::Fixed),
        (1, true) => left.filter(|&left| left == 1).map(|_| Axis::Batch),
        _ => None,
    }?;
    if batches != usize::from(has_batch && !takes_batch) {
        return None;
    }
    let axis = |int: &Int| match int {
        int if is_free(&int) => Some(open),
        Int { factor: 1, batch: true } => Some(Axis::Batch),
        Int { batch: true, .. } => None,
        Int { factor, .. } => usize::try_from(*factor).ok().map(Axis::Fixed),
    };
    target.iter().map(axis).collect()
}

/// With a batch of a known size: the first dimension of that size before all features is the batch.
fn fixed(dims: &[Axis], target: &[Int], batch: usize) -> Option<Vec<Axis>> {
    let concrete = |axis: &Axis| if *axis == Axis::Batch { Axis::Fixed(batch) } else { *axis };
    let all: Vec<Axis> = dims.iter().map(concrete).collect();
    let mut sizes = inferred(&all, target)?;
    if !dims.contains(&Axis::Batch) {
        return Some(sizes);
    }
    let features = size(&rest(dims))?;
    let is_batch = |at: usize| {
        let before = sizes[..at].iter().all(|&axis| axis == Axis::Fixed(1));
        before && sizes[at] == Axis::Fixed(batch) && size(&sizes[at + 1..]) == Some(features)
    };
    let place = (0..sizes.len()).find(|&at| is_batch(at))?;
    sizes[place] = Axis::Batch;
    Some(sizes)
}

fn rest(dims: &[Axis]) -> Vec<Axis> {
    dims.iter().copied().filter(|&axis| axis != Axis::Batch).collect()
}

/// The activation in another shape.
fn view<'m>(importer: &mut Importer<'m>, node: &'m Node, data: Data, dims: &[Axis]) -> Result<(), Reason> {
    starts_with_batch(dims)?;
    let before = data.view.dims();
    let view = data.view.reshaped(dims).ok_or_else(|| {
        Reason::from(format!("reshaping {} to {} takes axes apart", Dims(&before), Dims(dims)))
    })?;
    importer.set(node, Known::Data(Data { view, ..data }))
}

/// Whether the first dimension larger than 1 is the batch.
fn starts_with_batch(dims: &[Axis]) -> Result<(), Reason> {
    match dims.iter().find(|&&axis| axis != Axis::Fixed(1)) {
        Some(Axis::Batch) => Ok(()),
        _ => Err(format!("the shape {} does not start with the batch", Dims(dims)).into()),
    }
}
