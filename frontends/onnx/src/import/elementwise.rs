//! Arithmetic: on shapes, with constants, between activations, and as parts of larger things.
//!
//! A constant that differs from channel to channel is a bias or a factor for each channel; both go into the contraction
//! before them where they can ([`simplify`](crate::simplify)). Activations meet where their shapes agree, or where one of
//! them has one position or one channel, as in a squeeze-excite block.

use ffc_ir::Handle;
use ffc_ir::module::{BinaryOp, Value};

use crate::fold::{Arithmetic, Elements, Folded};
use crate::graph::Node;
use crate::import::{Data, Importer, Known, Reason, RmsPart, activation, columns, plain, rms};
use crate::interface::SoftmaxTail;
use crate::names;
use crate::view::{Dims, Extent, View};

pub(crate) fn add<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Add)
}

pub(crate) fn sub<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Sub)
}

pub(crate) fn mul<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Mul)
}

pub(crate) fn div<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    binary(importer, node, Arithmetic::Div)
}

fn binary<'m>(importer: &mut Importer<'m>, node: &'m Node, op: Arithmetic) -> Result<(), Reason> {
    use Arithmetic::{Add, Div, Mul};
    use Known::{Data, Folded, Gelu, Noise, Rms};
    match (op, importer.known(node, 0)?, importer.known(node, 1)?) {
        (_, Folded(a), Folded(b)) => {
            let result = a.arithmetic(op, &b)?;
            importer.set(node, Folded(result))
        }
        (Mul, Data(data), Noise) | (Mul, Noise, Data(data)) => importer.set(node, Data(data)),
        (_, Noise, Folded(_)) | (Add | Mul, Folded(_), Noise) => importer.set(node, Noise),
        (Mul, Data(a), Data(b)) if a == b => rms::square(importer, node, &a),
        (Add, Rms(value, RmsPart::Mean), Folded(epsilon))
        | (Add, Folded(epsilon), Rms(value, RmsPart::Mean)) => {
            rms::shift(importer, node, value, epsilon.as_scalar()?)
        }
        (Div, Data(data), Rms(value, RmsPart::Root(epsilon))) if data.value == value => {
            rms::normalize(importer, node, data, epsilon)
        }
        (_, Gelu(data, part), Folded(number)) | (Add | Mul, Folded(number), Gelu(data, part)) => {
            activation::gelu_with_number(importer, node, (data, part), (op, number.as_scalar()?))
        }
        (Mul, Gelu(data, part), Data(other)) | (Mul, Data(other), Gelu(data, part)) => {
            activation::gelu_with_data(importer, node, (data, part), plain(other)?)
        }
        (_, Data(data), Folded(constant)) => with_constant(importer, node, op, data, &constant),
        (Add | Mul, Folded(constant), Data(data)) => with_constant(importer, node, op, data, &constant),
        (_, Folded(_), Data(data)) => Err(on_constant(importer, &data)),
        (Div, Data(_), Data(_)) => Err(Reason::from("a division by an activation")),
        (_, Data(a), Data(b)) => {
            let (a, b) = (importer.joined(a), importer.joined(b));
            let joined = join(importer, op, plain(a)?, plain(b)?)?;
            importer.set(node, Data(joined))
        }
        _ => Err(Reason::from("arithmetic with something that is no activation")),
    }
}

/// The sum of any number of activations.
pub(crate) fn sum<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    let mut total = importer.data(node, 0)?;
    for position in 1..node.inputs.len() {
        let next = importer.data(node, position)?;
        total = join(importer, Arithmetic::Add, total, next)?;
    }
    importer.set(node, Known::Data(total))
}

fn on_constant(importer: &Importer<'_>, data: &Data) -> Reason {
    if data.view.features() == Ok(1) {
        return Reason::from(
            "the network has one output; the task is classification with one score per class",
        );
    }
    if importer.builder.is_input(data.value) {
        return Reason::from("arithmetic on the network's input: put it into the preprocessing");
    }
    Reason::from("a constant that an activation is subtracted from, or that is divided by one")
}

/// An activation plus, minus, times or by a constant.
fn with_constant<'m>(
    importer: &mut Importer<'m>,
    node: &'m Node,
    op: Arithmetic,
    data: Data,
    constant: &Folded,
) -> Result<(), Reason> {
    if matches!(constant.elements, Elements::Ints(_)) {
        return Err(Reason::from("arithmetic of an activation with integers"));
    }
    // Factors for channels are a layer of their own, which a normalisation may precede.
    let factors = op == Arithmetic::Mul && constant.dims.iter().product::<usize>() > 1;
    let data = plain(if factors { importer.joined(data) } else { data })?;
    if importer.builder.is_input(data.value) || data.view.features() == Ok(1) {
        return Err(on_constant(importer, &data));
    }
    let values = constant.as_floats(importer.builder.columns(data.value))?;
    // One form for each pair: a sum of the negated constant, a product with its inverse.
    let adds = matches!(op, Arithmetic::Add | Arithmetic::Sub);
    let turned = |&value: &f32| match op {
        Arithmetic::Add | Arithmetic::Mul => value,
        Arithmetic::Sub => -value,
        Arithmetic::Div => 1.0 / value,
    };
    let values: Vec<f32> = match values.as_slice() {
        [only] if constant.dims.len() <= data.view.rank() => {
            let op = if adds { BinaryOp::Add } else { BinaryOp::Mul };
            let value = importer.builder.with_number(op, data.value, turned(only))?;
            return importer.built(node, value, data.view);
        }
        values => {
            importer.builder.charge(importer.builder.columns(data.value))?;
            let places = data.view.channel_places(&constant.dims)?;
            places.into_iter().map(|place| turned(&values[place])).collect()
        }
    };
    let constant =
        node.inputs.iter().find(|name| !matches!(importer.values.get(name.as_str()), Some(Known::Data(_))));
    let layer = names::layer(node, constant.map_or("", String::as_str));
    let value = if adds {
        importer.builder.bias(data.value, layer, values.into())?
    } else {
        importer.builder.scale(data.value, data.view.stored_size(), layer, values)?
    };
    importer.built(node, value, data.view)
}

/// Two activations element by element.
fn join(importer: &mut Importer<'_>, op: Arithmetic, a: Data, b: Data) -> Result<Data, Reason> {
    let (x, y, view) = if a.view == b.view { (a.value, b.value, a.view) } else { broadcast(importer, a, b)? };
    if importer.builder.is_input(x) && importer.builder.is_input(y) {
        return Err(Reason::from("arithmetic on the network's input: put it into the preprocessing"));
    }
    let op = match op {
        Arithmetic::Add => BinaryOp::Add,
        Arithmetic::Sub => BinaryOp::Sub,
        Arithmetic::Mul => BinaryOp::Mul,
        Arithmetic::Div => BinaryOp::Div,
    };
    let value = importer.builder.binary(op, x, y)?;
    Ok(Data { value, view, normalized: None, softmax: SoftmaxTail::None })
}

/// Two images, of which one may have one position or one channel for all of the other's.
fn broadcast(
    importer: &mut Importer<'_>,
    a: Data,
    b: Data,
) -> Result<(Handle<Value>, Handle<Value>, View), Reason> {
    let mismatch = format!(
        "activations of the shapes {} and {} do not meet",
        Dims(&a.view.dims()),
        Dims(&b.view.dims())
    );
    if a.view.rank() != b.view.rank() {
        return Err(mismatch.into());
    }
    let rank = a.view.rank();
    let order = a.view.channels_to_front().or_else(|| b.view.channels_to_front());
    let turn = |data: Data| match &order {
        Some(order) => Data { view: data.view.permuted(order), ..data },
        None => data,
    };
    let ((mut x, mut of_x), (mut y, mut of_y)) = (importer.image(&turn(a))?, importer.image(&turn(b))?);
    if of_x.order != of_y.order && of_x.channels == of_y.channels {
        (x, y) = (columns::in_order(importer, x, &of_x)?, columns::in_order(importer, y, &of_y)?);
        (of_x.order, of_y.order) = (None, None);
    }
    let size = either(of_x.size, of_y.size, [1; 2]);
    let channels = either(of_x.channels, of_y.channels, 1);
    let (Some(size), Some(channels)) = (size, channels) else { return Err(mismatch.into()) };
    let view = View::image(Extent { size, channels, order: of_x.order.or(of_y.order) }, rank);
    let back = order.map(|_| {
        (0..rank).map(|at| {
            if at == 0 {
                0
            } else if at + 1 == rank {
                1
            } else {
                at + 1
            }
        })
    });
    let view = back.map_or(view.clone(), |back| view.permuted(&back.collect::<Vec<_>>()));
    Ok((x, y, view))
}

/// What two sizes broadcast to.
fn either<T: PartialEq>(a: T, b: T, one: T) -> Option<T> {
    if a == b || b == one {
        Some(a)
    } else if a == one {
        Some(b)
    } else {
        None
    }
}

/// Normalisation by the statistics that training gathered: a factor and a bias for each channel.
pub(crate) fn batch_normalization<'m>(importer: &mut Importer<'m>, node: &'m Node) -> Result<(), Reason> {
    if node.int("spatial", 1)? != 1 {
        return Err(Reason::from("statistics for each position"));
    }
    let data = importer.data(node, 0)?;
    let mut statistics: Vec<Vec<f32>> = Vec::new();
    for position in 1..5 {
        let numbers = importer.builder.columns(data.value);
        statistics.push(importer.folded(node, position)?.as_floats(numbers)?);
    }
    let [gamma, beta, mean, variance] = statistics.as_slice() else { unreachable!("four were read") };
    let channels = gamma.len();
    let (value, view, size) = match data.view.rank() {
        2 => (data.value, data.view.clone(), data.view.stored_size()),
        rank => {
            let (value, extent) = importer.image(&data)?;
            let size = extent.size;
            (value, View::image(extent, rank), size)
        }
    };
    if statistics.iter().any(|values| values.len() != channels) || !view.is_channels(channels) {
        return Err(format!("{channels} channels, and an activation of {}", Dims(&view.dims())).into());
    }
    importer.builder.charge(2 * channels)?;
    let mut dims = vec![channels];
    dims.extend(vec![1; view.rank() - 2]);
    let places = view.channel_places(&dims)?;
    let epsilon = f64::from(node.float("epsilon", 1e-5)?);
    let factor = |at: usize| f64::from(gamma[at]) / (f64::from(variance[at]) + epsilon).sqrt();
    let factors: Vec<f32> = places.iter().map(|&at| factor(at) as f32).collect();
    let bias = |&at: &usize| (f64::from(beta[at]) - f64::from(mean[at]) * factor(at)) as f32;
    let biases: Vec<f32> = places.iter().map(bias).collect();
    if factors.iter().chain(&biases).any(|value| !value.is_finite()) {
        return Err(Reason::from("its variance, with epsilon, is not positive"));
    }
    let layer = names::layer(node, node.inputs.get(1).map_or("", String::as_str));
    let scaled = importer.builder.scale(value, size, layer.clone(), factors)?;
    importer.builder.mark_normalized();
    let value = importer.builder.bias(scaled, layer, biases.into())?;
    importer.built(node, value, view)
}
