//! The network's own operators: an imported module, read back into the operators that it came from.
//!
//! What the module has as a matrix of positions and channels is a tensor `[batch, channels, height, width]` in the file, or
//! `[batch, features]` where a sample is one row. So the weight of a convolution goes back to `[filters, channels, height,
//! width]`, and the columns of a dense layer that sees a whole image back to channel after channel.

use std::collections::HashMap;

use ffc_ir::Handle;
use ffc_ir::module::{Activation, BinaryOp, Layer, Op, Param, PoolOp, Value};
use ffc_ir::types::Dim;
use ffc_ir::window::Window;

use super::groups::{Groups, groups};
use super::write::{Order, Writer, float, int, ints, text};
use super::{ExportError, ExportModel};
use crate::interface::Size;
use crate::sizes::image_sizes;

/// A value in the file.
#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    /// What it must still be multiplied by: a mean is written as such, but is a sum in the module.
    factor: f32,
    form: Form,
}

/// The shape of a value in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// As the file's input is declared.
    Declared,
    /// `[batch, features]`.
    Row,
    /// `[batch, channels, height, width]`.
    Image,
}

/// Writes a network's operators.
pub(super) struct Network<'a> {
    pub(super) writer: &'a mut Writer,
    model: &'a ExportModel,
    layer: &'a Layer,
    sizes: Vec<[usize; 2]>,
    uses: Vec<usize>,
    tensors: HashMap<Handle<Value>, Tensor>,
    /// Normalised tensors by their operand, and whether it is seen as an image.
    normalized: HashMap<(Handle<Value>, bool), String>,
    /// Columns of tensors by their value and what they are columns of.
    selected: HashMap<(Handle<Value>, String), String>,
    /// Convolutions in groups, by what they give.
    groups: HashMap<Handle<Value>, Groups>,
    /// Initializers by parameter.
    pub(super) params: HashMap<Handle<Param>, String>,
}

impl<'a> Network<'a> {
    pub(super) fn new(writer: &'a mut Writer, model: &'a ExportModel) -> Self {
        let layer = &model.module.layers[0];
        let mut uses = vec![0; layer.values.len()];
        layer
            .forward
            .iter()
            .for_each(|&value| layer.values[value].op.operands(|operand| uses[operand.index()] += 1));
        layer.outputs.iter().for_each(|output| uses[output.index()] += 1);
        let found = layer.forward.iter().filter_map(|&value| Some((value, groups(layer, &uses, value)?)));
        let groups: HashMap<_, _> = found.collect();
        Self {
            writer,
            model,
            layer,
            sizes: image_sizes(layer),
            uses,
            tensors: HashMap::new(),
            normalized: HashMap::new(),
            selected: HashMap::new(),
            groups,
            params: HashMap::new(),
        }
    }

    /// All operators behind an input that is as the file declares it, or rows where `rows` says so; gives the logits.
    pub(super) fn write(&mut self, input: &str, rows: bool) -> Result<String, ExportError> {
        for &value in &self.layer.forward {
            if let Some(tensor) = self.tensor(value, input, rows)? {
                self.tensors.insert(value, tensor);
            }
        }
        Ok(self.row(self.layer.outputs[0]))
    }

    /// A row of features for each sample.
    pub(super) fn row(&mut self, value: Handle<Value>) -> String {
        if let Some(source) = self.layer.sliced(value) {
            let source = self.row(source);
            return self.select(value, &source);
        }
        let tensor = self.whole(value);
        match tensor.form {
            Form::Row => tensor.name,
            Form::Declared if self.model.interface.input_dims.len() == 2 => tensor.name,
            Form::Declared | Form::Image => self.flat(value, &tensor.name),
        }
    }

    fn flat(&mut self, value: Handle<Value>, name: &str) -> String {
        let hint = format!("{}.flat", self.name(value));
        self.writer.op("Flatten", &hint, &[name], vec![int("axis", 1)])
    }

    fn op(&self, value: Handle<Value>) -> Op {
        self.layer.values[value].op
    }

    fn name(&self, value: Handle<Value>) -> &'a str {
        &self.layer.values[value].name
    }

    fn columns(&self, value: Handle<Value>) -> usize {
        match self.layer.ty(value).columns() {
            Dim::Const(columns) | Dim::Rows(columns) => columns,
        }
    }

    fn is_row(&self, value: Handle<Value>) -> bool {
        self.layer.ty(value).rows() == Dim::ROWS
    }

    fn param(&self, value: Handle<Value>) -> Option<(Handle<Param>, &'a Param)> {
        let Op::Param(handle) = self.op(value) else { return None };
        Some((handle, &self.model.module.params[handle]))
    }

    /// The tensor that a value is, `None` for what is written where it is used.
    fn tensor(
        &mut self,
        value: Handle<Value>,
        input: &str,
        rows: bool,
    ) -> Result<Option<Tensor>, ExportError> {
        if self.groups.values().any(|groups| groups.inner.contains(&value)) {
            return Ok(None);
        }
        let tensor = match self.op(value) {
            Op::Operand(_) => {
                let form = if rows { Form::Row } else { Form::Declared };
                Tensor { name: input.to_string(), factor: 1.0, form }
            }
            Op::Param(_) | Op::Constant(_) | Op::Window { .. } => return Ok(None),
            _ if self.layer.sliced(value).is_some() => return Ok(None),
            Op::Concat(..) => match self.groups.get(&value).cloned() {
                Some(groups) => self.grouped(value, &groups)?,
                None => self.concat(value),
            },
            Op::Pixels { value: samples, channels } => self.pixels(value, samples, channels),
            Op::Reshape(samples) => self.positions(value, samples),
            Op::Dot { lhs, rhs } => self.contraction(value, lhs, rhs)?,
            Op::Depthwise { value: image, weight, window } => self.depthwise(value, image, weight, window)?,
            Op::Pool { op, value: image, window } => match self.pool(value, op, image, window) {
                Some(tensor) => tensor,
                None => return Ok(None),
            },
            Op::Binary(op, a, b) => self.binary(value, op, a, b)?,
            Op::Activate(activation, x) => {
                let x = self.whole(x);
                Tensor { name: self.activate(value, &x.name, activation), factor: 1.0, form: x.form }
            }
            _ => return Err(ExportError::Module(format!("`{}` is not imported", self.name(value)))),
        };
        Ok(Some(tensor))
    }

    /// A tensor with its factor applied.
    fn whole(&mut self, value: Handle<Value>) -> Tensor {
        if let Some(source) = self.layer.sliced(value) {
            let source = self.whole(source);
            return Tensor { name: self.select(value, &source.name), ..source };
        }
        let tensor = self.tensors[&value].clone();
        if (tensor.factor - 1.0).abs() < 1e-6 {
            return tensor;
        }
        let factor = self.writer.floats(&format!("{}.factor", self.name(value)), &[], &[tensor.factor]);
        let hint = format!("{}.scaled", self.name(value));
        let name = self.writer.op("Mul", &hint, &[&tensor.name, &factor], Vec::new());
        let whole = Tensor { name, factor: 1.0, ..tensor };
        self.tensors.insert(value, whole.clone());
        whole
    }

    /// An image, of one position where a sample is a row.
    fn image(&mut self, value: Handle<Value>) -> String {
        if let Some(source) = self.layer.sliced(value) {
            let source = self.image(source);
            return self.select(value, &source);
        }
        let tensor = self.whole(value);
        match tensor.form {
            Form::Image => tensor.name,
            Form::Row | Form::Declared => {
                let shape = [-1, self.columns(value) as i64, 1, 1];
                self.reshape(&format!("{}.position", self.name(value)), &tensor.name, &shape)
            }
        }
    }

    fn reshape(&mut self, hint: &str, input: &str, shape: &[i64]) -> String {
        let shape = self.writer.integers(&format!("{hint}.shape"), shape);
        self.writer.op("Reshape", hint, &[input, &shape], Vec::new())
    }

    /// Whether the file declares its input with these sizes.
    fn declares(&self, samples: Handle<Value>, sizes: [usize; 3]) -> bool {
        let dims = self.model.interface.input_dims.iter().skip(1).cloned();
        self.tensors[&samples].form == Form::Declared && dims.eq(sizes.map(Size::Fixed))
    }

    /// Samples, channel after channel.
    fn pixels(&mut self, value: Handle<Value>, samples: Handle<Value>, channels: usize) -> Tensor {
        let [height, width] = self.sizes[value.index()];
        let mut name = self.whole(samples).name;
        if !self.declares(samples, [channels, height, width]) {
            let shape = [channels, height, width].map(|size| size as i64);
            name = self.reshape(self.name(value), &name, &[&[-1][..], &shape].concat());
        }
        Tensor { name, factor: 1.0, form: Form::Image }
    }

    /// Samples, position after position.
    fn positions(&mut self, value: Handle<Value>, samples: Handle<Value>) -> Tensor {
        let ([height, width], channels) = (self.sizes[value.index()], self.columns(value));
        let mut name = self.whole(samples).name;
        if !self.declares(samples, [height, width, channels]) {
            let shape = [height, width, channels].map(|size| size as i64);
            let hint = format!("{}.rows", self.name(value));
            name = self.reshape(&hint, &name, &[&[-1][..], &shape].concat());
        }
        let name = self.writer.op("Transpose", self.name(value), &[&name], vec![ints("perm", &[0, 3, 1, 2])]);
        Tensor { name, factor: 1.0, form: Form::Image }
    }

    /// What a contraction sees: normalised where the network is.
    fn operand(&mut self, value: Handle<Value>, as_image: bool) -> String {
        if let Some(source) = self.layer.sliced(value) {
            let source = self.operand(source, as_image);
            return self.select(value, &source);
        }
        let first = match self.op(value) {
            Op::Operand(_) => true,
            Op::Pixels { value, .. } | Op::Reshape(value) => matches!(self.op(value), Op::Operand(_)),
            _ => false,
        };
        let plain = if as_image { self.image(value) } else { self.row(value) };
        let Some(rms) = self.model.normalization.filter(|rms| rms.input || !first) else { return plain };
        if let Some(name) = self.normalized.get(&(value, as_image)) {
            return name.clone();
        }
        let axes: &[i64] = if as_image { &[1, 2, 3] } else { &[1] };
        let name = self.normalize(self.name(value), &plain, axes, rms.epsilon);
        self.normalized.insert((value, as_image), name.clone());
        name
    }

    /// The channels of a tensor that a value consists of.
    fn select(&mut self, value: Handle<Value>, source: &str) -> String {
        if self.layer.sliced(value).is_none() {
            return source.to_string();
        }
        let key = (value, source.to_string());
        if let Some(name) = self.selected.get(&key) {
            return name.clone();
        }
        let hint = self.name(value);
        let name = match self.op(value) {
            Op::Slice { value: inner, from, columns } => {
                let input = self.select(inner, source);
                let mut list = |what: &str, number: usize| {
                    self.writer.integers(&format!("{hint}.{what}"), &[number as i64])
                };
                let (start, end, axes) = (list("start", from), list("end", from + columns), list("axes", 1));
                self.writer.op("Slice", hint, &[&input, &start, &end, &axes], Vec::new())
            }
            Op::Concat(a, b) => {
                let (a, b) = (self.select(a, source), self.select(b, source));
                self.writer.op("Concat", hint, &[&a, &b], vec![int("axis", 1)])
            }
            _ => return source.to_string(),
        };
        self.selected.insert(key, name.clone());
        name
    }

    /// Channels side by side, as many at a time as nobody else sees.
    fn concat(&mut self, value: Handle<Value>) -> Tensor {
        let form = if self.is_row(value) { Form::Row } else { Form::Image };
        let (mut parts, mut rest) = (Vec::new(), value);
        while let Op::Concat(first, second) = self.op(rest) {
            if rest != value && (self.uses[rest.index()] > 1 || self.layer.sliced(rest).is_some()) {
                break;
            }
            parts.push(second);
            rest = first;
        }
        parts.push(rest);
        let inputs: Vec<String> = parts.iter().rev().map(|&part| self.joined(value, part, form)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = self.writer.op("Concat", self.name(value), &inputs, vec![int("axis", 1)]);
        Tensor { name, factor: 1.0, form }
    }

    /// `a / sqrt(mean(a^2) + epsilon)`: the form that the importer recognises.
    fn normalize(&mut self, name: &str, input: &str, axes: &[i64], epsilon: f32) -> String {
        let square = self.writer.op("Mul", &format!("{name}.square"), &[input, input], Vec::new());
        let mean = self.writer.mean(&format!("{name}.mean"), &square, axes);
        let epsilon = self.writer.floats(&format!("{name}.epsilon"), &[], &[epsilon]);
        let sum = self.writer.op("Add", &format!("{name}.shifted"), &[&mean, &epsilon], Vec::new());
        let root = self.writer.op("Sqrt", &format!("{name}.root"), &[&sum], Vec::new());
        self.writer.op("Div", &format!("{name}.normalized"), &[input, &root], Vec::new())
    }

    /// An initializer for a parameter.
    fn initializer(&mut self, param: (Handle<Param>, &Param), dims: &[usize], order: Order) -> String {
        self.initializer_of_all(&[param], dims, order)
    }

    /// An initializer for parameters, one behind the other.
    fn initializer_of_all(
        &mut self,
        params: &[(Handle<Param>, &Param)],
        dims: &[usize],
        order: Order,
    ) -> String {
        let described: Vec<&Param> = params.iter().map(|&(_, param)| param).collect();
        let name = self.writer.weight(&described, dims, order);
        self.params.extend(params.first().map(|&(handle, _)| (handle, name.clone())));
        name
    }

    /// The bias that is added to a contraction and nothing else; it is written with the contraction.
    fn bias(&self, sum: Handle<Value>) -> Option<Handle<Value>> {
        let unseen = self.uses[sum.index()] == 1;
        let mut users = self.layer.forward.iter().map(|&user| self.op(user));
        users.find_map(|op| match op {
            Op::Binary(BinaryOp::Add, a, b) if a == sum && unseen => self.param(b).map(|_| b),
            _ => None,
        })
    }

    fn contraction(
        &mut self,
        value: Handle<Value>,
        lhs: Handle<Value>,
        rhs: Handle<Value>,
    ) -> Result<Tensor, ExportError> {
        let (seen, window) = match self.op(lhs) {
            Op::Window { value, window } => (value, Some(window)),
            _ => (lhs, None),
        };
        let weight = self.weight(value, rhs)?;
        let channels = self.columns(seen);
        match window {
            None if self.is_row(seen) => {
                let input = self.operand(seen, false);
                Ok(self.dense(value, input, weight, Order::Rows))
            }
            // The whole image, flattened as the file sees it.
            Some(window) if window == Window::whole(window.input) => {
                let input = self.operand(seen, true);
                let input = self.flat(seen, &input);
                let order = Order::ChannelsFirst { taps: window.taps(), channels };
                Ok(self.dense(value, input, weight, order))
            }
            window => {
                let size = self.sizes[seen.index()];
                let window = window.unwrap_or(Window::identity(size));
                let input = self.operand(seen, true);
                let order = Order::ChannelsFirst { taps: window.taps(), channels };
                let dims = [weight.1.shape[0], channels, window.kernel[0], window.kernel[1]];
                Ok(self.convolution(value, input, weight, (&dims, order), window, 1))
            }
        }
    }

    fn weight(
        &self,
        value: Handle<Value>,
        weight: Handle<Value>,
    ) -> Result<(Handle<Param>, &'a Param), ExportError> {
        self.param(weight).ok_or_else(|| ExportError::Module(format!("`{}` has no weight", self.name(value))))
    }

    fn dense(
        &mut self,
        value: Handle<Value>,
        input: String,
        weight: (Handle<Param>, &Param),
        order: Order,
    ) -> Tensor {
        let weight = self.initializer(weight, &weight.1.shape, order);
        let mut inputs = vec![input, weight];
        inputs.extend(self.written_bias(value));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let name = self.writer.op("Gemm", self.name(value), &inputs, vec![int("transB", 1)]);
        Tensor { name, factor: 1.0, form: Form::Row }
    }

    fn written_bias(&mut self, value: Handle<Value>) -> Option<String> {
        let bias = self.bias(value).and_then(|bias| self.param(bias))?;
        Some(self.initializer(bias, &[bias.1.len()], Order::Rows))
    }

    fn convolution(
        &mut self,
        value: Handle<Value>,
        input: String,
        weight: (Handle<Param>, &Param),
        (dims, order): (&[usize], Order),
        window: Window,
        group: usize,
    ) -> Tensor {
        let weight = self.initializer(weight, dims, order);
        let (input, pads) = self.padded(value, input, &window);
        let mut inputs = vec![input, weight];
        inputs.extend(self.written_bias(value));
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut attributes = geometry(&window, &pads);
        attributes.push(int("group", group as i64));
        let name = self.writer.op("Conv", self.name(value), &inputs, attributes);
        self.positioned(value, name)
    }

    /// A convolution in groups: one weight for all.
    fn grouped(&mut self, value: Handle<Value>, groups: &Groups) -> Result<Tensor, ExportError> {
        let size = self.sizes[groups.source.index()];
        let window = groups.window.unwrap_or(Window::identity(size));
        let input = self.operand(groups.source, true);
        let weights = groups.weights.iter().map(|&weight| self.weight(value, weight));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let filters = weights.iter().map(|(_, param)| param.shape[0]).sum();
        let dims = [filters, groups.depth, window.kernel[0], window.kernel[1]];
        let order = Order::ChannelsFirst { taps: window.taps(), channels: groups.depth };
        let weight = self.initializer_of_all(&weights, &dims, order);
        let (input, pads) = self.padded(value, input, &window);
        let mut inputs = vec![input, weight];
        let biases: Vec<_> = groups.biases.iter().filter_map(|&bias| self.param(bias)).collect();
        if !biases.is_empty() {
            inputs.push(self.initializer_of_all(&biases, &[filters], Order::Rows));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut attributes = geometry(&window, &pads);
        attributes.push(int("group", groups.weights.len() as i64));
        let hint = format!("{}.groups", self.name(value));
        let mut name = self.writer.op("Conv", &hint, &inputs, attributes);
        if let Some(activation) = groups.activation {
            name = self.activate(value, &name, activation);
        }
        Ok(self.positioned(value, name))
    }

    /// What gives an image gives a row where there is but one position.
    fn positioned(&mut self, value: Handle<Value>, name: String) -> Tensor {
        if self.is_row(value) {
            return Tensor { name: self.flat(value, &name), factor: 1.0, form: Form::Row };
        }
        Tensor { name, factor: 1.0, form: Form::Image }
    }

    /// The pads of a window. Where operators cannot say them, the input is padded, or cut, before.
    fn padded(&mut self, value: Handle<Value>, input: String, window: &Window) -> (String, [i64; 4]) {
        let behind = |axis: usize| {
            let reach = (window.output[axis] - 1) * window.stride[axis]
                + (window.kernel[axis] - 1) * window.dilation[axis]
                + 1;
            reach as i64 - window.pad[axis] as i64 - window.input[axis] as i64
        };
        let pads = [window.pad[0] as i64, window.pad[1] as i64, behind(0), behind(1)];
        // What is left over behind the last window goes unseen, if it is less than a stride.
        let unseen = |axis: usize| pads[2 + axis] <= 0 && -pads[2 + axis] < window.stride[axis] as i64;
        if pads[..2].iter().all(|&pad| pad >= 0) && (0..2).all(|axis| pads[2 + axis] >= 0 || unseen(axis)) {
            return (input, pads.map(|pad| pad.max(0)));
        }
        (self.pad(value, &input, pads), [0; 4])
    }

    fn pad(&mut self, value: Handle<Value>, input: &str, pads: [i64; 4]) -> String {
        let hint = format!("{}.padded", self.name(value));
        let pads =
            self.writer.integers(&format!("{hint}.pads"), &[0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]]);
        self.writer.op("Pad", &hint, &[input, &pads], Vec::new())
    }

    fn depthwise(
        &mut self,
        value: Handle<Value>,
        image: Handle<Value>,
        weight: Handle<Value>,
        window: Window,
    ) -> Result<Tensor, ExportError> {
        let weight = self.weight(value, weight)?;
        if !window.is_identity() || !self.is_row(image) {
            let input = self.operand(image, true);
            let dims = [weight.1.len() / window.taps(), 1, window.kernel[0], window.kernel[1]];
            return Ok(self.convolution(value, input, weight, (&dims, Order::Rows), window, dims[0]));
        }
        // A factor for each channel.
        let tensor = self.whole(image);
        let factors = self.initializer(weight, &broadcast(&tensor, weight.1.len()), Order::Rows);
        let input = self.operand(image, tensor.form == Form::Image);
        let name = self.writer.op("Mul", self.name(value), &[&input, &factors], Vec::new());
        Ok(Tensor { name, ..tensor })
    }

    /// A pool; none where the next one is written with it.
    fn pool(
        &mut self,
        value: Handle<Value>,
        op: PoolOp,
        image: Handle<Value>,
        window: Window,
    ) -> Option<Tensor> {
        if op == PoolOp::Sum && self.goes_on(value, &window) {
            return None;
        }
        let (image, window) = if op == PoolOp::Sum { self.combined(image, window) } else { (image, window) };
        let sums_one = op == PoolOp::Sum && window.taps() == 1;
        let factor = if op == PoolOp::Sum { self.tensors[&image].factor } else { 1.0 };
        let input = match op {
            // A factor may wait behind a sum.
            PoolOp::Sum if self.tensors[&image].form == Form::Image => self.tensors[&image].name.clone(),
            _ => self.image(image),
        };
        if sums_one && window.stride == [1; 2] {
            let behind = |axis: usize| {
                window.output[axis] as i64 - window.input[axis] as i64 - window.pad[axis] as i64
            };
            let pads = [window.pad[0] as i64, window.pad[1] as i64, behind(0), behind(1)];
            let name = self.pad(value, &input, pads);
            return Some(Tensor { factor, ..self.positioned(value, name) });
        }
        let name = if window == Window::whole(window.input) {
            let op = if op == PoolOp::Sum { "GlobalAveragePool" } else { "GlobalMaxPool" };
            self.writer.op(op, self.name(value), &[&input], Vec::new())
        } else {
            let (input, pads) = self.padded(value, input, &window);
            let mut attributes = geometry(&window, &pads);
            attributes.push(ints("kernel_shape", &window.kernel.map(|size| size as i64)));
            if op == PoolOp::Sum {
                attributes.push(int("count_include_pad", 1));
            }
            let op = if op == PoolOp::Sum { "AveragePool" } else { "MaxPool" };
            self.writer.op(op, self.name(value), &[&input], attributes)
        };
        // A mean, times what it is a mean of.
        let factor = if op == PoolOp::Sum { factor * window.taps() as f32 } else { 1.0 };
        Some(Tensor { factor, ..self.positioned(value, name) })
    }

    /// Whether the only one that uses this sum is a sum that can be taken at once with it.
    fn goes_on(&self, value: Handle<Value>, window: &Window) -> bool {
        let takes_both = |op: &Op| match op {
            Op::Pool { op: PoolOp::Sum, value: of, window: outer } => {
                *of == value && at_once(window, outer).is_some()
            }
            _ => false,
        };
        self.uses[value.index()] == 1 && self.layer.forward.iter().any(|&user| takes_both(&self.op(user)))
    }

    /// What a sum of sums is of, and the window for all at once.
    fn combined(&self, image: Handle<Value>, window: Window) -> (Handle<Value>, Window) {
        match self.op(image) {
            Op::Pool { op: PoolOp::Sum, value, window: inner } if self.goes_on(image, &inner) => {
                at_once(&inner, &window).map_or((image, window), |both| self.combined(value, both))
            }
            _ => (image, window),
        }
    }

    fn binary(
        &mut self,
        value: Handle<Value>,
        op: BinaryOp,
        a: Handle<Value>,
        b: Handle<Value>,
    ) -> Result<Tensor, ExportError> {
        let word = match op {
            BinaryOp::Add => "Add",
            BinaryOp::Sub => "Sub",
            BinaryOp::Mul => "Mul",
            BinaryOp::Div => "Div",
            BinaryOp::Max => "Max",
            BinaryOp::Min => "Min",
        };
        if let (Op::Constant(number), BinaryOp::Mul) = (self.op(b), op) {
            let tensor = self.tensors[&a].clone();
            return Ok(Tensor { factor: tensor.factor * number, ..tensor });
        }
        if let Some(param) = self.param(b) {
            let is_written = matches!(self.op(a), Op::Dot { .. } | Op::Depthwise { .. })
                && self.bias(a) == Some(b)
                && self.params.contains_key(&param.0);
            let tensor = self.whole(a);
            if is_written {
                return Ok(tensor);
            }
            let bias = self.initializer(param, &broadcast(&tensor, param.1.len()), Order::Rows);
            let name = self.writer.op(word, self.name(value), &[&tensor.name, &bias], Vec::new());
            return Ok(Tensor { name, ..tensor });
        }
        if let Op::Constant(number) = self.op(b) {
            let tensor = self.whole(a);
            let number = self.writer.floats(&format!("{}.number", self.name(value)), &[], &[number]);
            let name = self.writer.op(word, self.name(value), &[&tensor.name, &number], Vec::new());
            return Ok(Tensor { name, ..tensor });
        }
        let form = match (self.whole(a).form, self.whole(b).form) {
            (Form::Row, Form::Row) => Form::Row,
            _ => Form::Image,
        };
        let (x, y) = (self.joined(value, a, form), self.joined(value, b, form));
        let name = self.writer.op(word, self.name(value), &[&x, &y], Vec::new());
        Ok(Tensor { name, factor: 1.0, form })
    }

    /// What a sum or product takes: normalised, if it comes from another layer.
    fn joined(&mut self, user: Handle<Value>, value: Handle<Value>, form: Form) -> String {
        let layer = |value| self.model.layer_of.get(&value);
        let source = self.layer.sliced(value).unwrap_or(value);
        let crosses = layer(source).is_some_and(|layer_of| layer(user) != Some(layer_of));
        match form {
            _ if crosses => self.operand(value, form == Form::Image),
            Form::Image => self.image(value),
            Form::Row | Form::Declared => self.whole(value).name,
        }
    }

    fn activate(&mut self, value: Handle<Value>, input: &str, activation: Activation) -> String {
        let hint = self.name(value);
        let writer = &mut *self.writer;
        match activation {
            Activation::Relu => writer.op("Relu", hint, &[input], Vec::new()),
            Activation::LeakyRelu(slope) => {
                writer.op("LeakyRelu", hint, &[input], vec![float("alpha", slope)])
            }
            Activation::Sigmoid => writer.op("Sigmoid", hint, &[input], Vec::new()),
            Activation::Tanh => writer.op("Tanh", hint, &[input], Vec::new()),
            Activation::Clip { low, high } => {
                let low = writer.floats(&format!("{hint}.low"), &[], &[low]);
                let high = writer.floats(&format!("{hint}.high"), &[], &[high]);
                writer.op("Clip", hint, &[input, &low, &high], Vec::new())
            }
            Activation::HardSigmoid { alpha, beta } => {
                writer.op("HardSigmoid", hint, &[input], vec![float("alpha", alpha), float("beta", beta)])
            }
            Activation::Elu(alpha) => writer.op("Elu", hint, &[input], vec![float("alpha", alpha)]),
            Activation::HardSwish => writer.op("HardSwish", hint, &[input], Vec::new()),
            Activation::Silu => {
                let gate = writer.op("Sigmoid", &format!("{hint}.gate"), &[input], Vec::new());
                writer.op("Mul", hint, &[input, &gate], Vec::new())
            }
            Activation::Gelu => writer.op("Gelu", hint, &[input], Vec::new()),
            Activation::GeluTanh => writer.op("Gelu", hint, &[input], vec![text("approximate", "tanh")]),
        }
    }
}

/// The window through which one sees what one sees through these, one behind the other: along each axis only one of them
/// moves, or both show tiles.
fn at_once(inner: &Window, outer: &Window) -> Option<Window> {
    let mut both = Window::new(inner.input, outer.output, [1; 2], [1; 2], [0; 2]);
    for axis in 0..2 {
        let along = |window: &Window| {
            (window.kernel[axis], window.stride[axis], window.dilation[axis], window.pad[axis])
        };
        let rests =
            |window: &Window| along(window) == (1, 1, 1, 0) && window.input[axis] == window.output[axis];
        let tiles = |window: &Window| along(window) == (window.kernel[axis], window.kernel[axis], 1, 0);
        let (kernel, stride, dilation, pad) = if rests(inner) {
            along(outer)
        } else if rests(outer) {
            along(inner)
        } else if tiles(inner) && tiles(outer) {
            let kernel = inner.kernel[axis] * outer.kernel[axis];
            (kernel, kernel, 1, 0)
        } else {
            return None;
        };
        (both.kernel[axis], both.stride[axis], both.dilation[axis], both.pad[axis]) =
            (kernel, stride, dilation, pad);
    }
    Some(both)
}

/// The dimensions of what there is once a channel.
fn broadcast(tensor: &Tensor, channels: usize) -> Vec<usize> {
    match tensor.form {
        Form::Row => vec![channels],
        Form::Image | Form::Declared => vec![channels, 1, 1],
    }
}

fn geometry(window: &Window, pads: &[i64; 4]) -> Vec<crate::proto::AttributeProto> {
    let list = |name: &str, pair: [usize; 2]| ints(name, &pair.map(|size| size as i64));
    let mut attributes = vec![list("strides", window.stride), ints("pads", pads)];
    if window.dilation != [1; 2] {
        attributes.push(list("dilations", window.dilation));
    }
    attributes
}
