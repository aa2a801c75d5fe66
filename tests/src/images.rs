//! Convolutional networks as a frontend makes them: small, with odd sizes, one for each way in which layers hang
//! together in the networks that people have.

use ffc_compiler::recipe::{LookAhead, Normalization, Options, Precision, Predict, RECIPES, Unit};
use ffc_ir::module::{
    Activation, BinaryOp, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage, Phase, PoolOp,
    Region, RowPlan, Value,
};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Arena, Handle, Window};

type V = Handle<Value>;

/// An image on its way through a network.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    value: V,
    size: [usize; 2],
    channels: usize,
}

/// A network under construction.
#[derive(Debug)]
pub struct Network {
    module: Module,
    layer: Layer,
}

impl Network {
    /// A network of images of `channels` x `size`, and the images.
    pub fn new(name: &str, channels: usize, size: [usize; 2], batch: usize) -> (Self, Image) {
        let positions = size[0] * size[1];
        let features = channels * positions;
        let module = Module {
            name: name.to_string(),
            phase: Phase::Imported,
            batch,
            features,
            input: DType::F32,
            classes: 2,
            rows: RowPlan::Plain,
            params: Arena::default(),
            layers: Vec::new(),
        };
        let mut layer = Layer::new("main", LayerRole::Whole);
        let samples = Type::new(DType::F32, Dim::ROWS, Dim::Const(features));
        let x = layer.push(Region::Forward, "x", Op::Operand(0), samples);
        let mut network = Self { module, layer };
        let value = network.image("pixels", Op::Pixels { value: x, channels }, size, channels);
        (network, Image { value, size, channels })
    }

    fn image(&mut self, name: &str, op: Op, size: [usize; 2], channels: usize) -> V {
        let ty = Type::new(DType::F32, Dim::Rows(size[0] * size[1]), Dim::Const(channels));
        self.layer.push(Region::Forward, name, op, ty)
    }

    fn param(&mut self, name: String, shape: [usize; 2], role: ParamRole) -> V {
        let param = Param { name: name.clone(), shape, storage: ParamStorage::F32, role };
        let param = self.module.params.push(param);
        let ty = self.module.params[param].ty();
        self.layer.push(Region::Forward, "w", Op::Param(param), ty)
    }

    fn biased(&mut self, name: &str, value: V, size: [usize; 2], channels: usize) -> Image {
        let bias = self.param(format!("{name}.bias"), [1, channels], ParamRole::Bias);
        let value = self.image("z", Op::Binary(BinaryOp::Add, value, bias), size, channels);
        Image { value, size, channels }
    }

    /// A convolution with a bias; as a plain product where the window is one position.
    pub fn conv(&mut self, name: &str, x: Image, filters: usize, window: Window) -> Image {
        let depth = x.channels * window.taps();
        let weight = self.param(format!("{name}.weight"), [filters, depth], ParamRole::Weight);
        let lhs = if window.is_identity() {
            x.value
        } else {
            self.image("seen", Op::Window { value: x.value, window }, window.output, depth)
        };
        let value = self.image("d", Op::Dot { lhs, rhs: weight }, window.output, filters);
        self.biased(name, value, window.output, filters)
    }

    /// A filter of its own for each channel, and a bias.
    pub fn depthwise(&mut self, name: &str, x: Image, window: Window) -> Image {
        let shape = [x.channels, window.taps()];
        let weight = self.param(format!("{name}.weight"), shape, ParamRole::Weight);
        let op = Op::Depthwise { value: x.value, weight, window };
        let value = self.image("d", op, window.output, x.channels);
        self.biased(name, value, window.output, x.channels)
    }

    /// A layer that sees all of an image, or a vector.
    pub fn dense(&mut self, name: &str, x: Image, units: usize) -> Image {
        self.conv(name, x, units, Window::whole(x.size))
    }

    /// An activation function.
    pub fn activate(&mut self, x: Image, activation: Activation) -> Image {
        let value = self.image("y", Op::Activate(activation, x.value), x.size, x.channels);
        Image { value, ..x }
    }

    /// The largest of what each position sees.
    pub fn max_pool(&mut self, x: Image, window: Window) -> Image {
        let op = Op::Pool { op: PoolOp::Max, value: x.value, window };
        let value = self.image("max", op, window.output, x.channels);
        Image { value, size: window.output, ..x }
    }

    /// The mean over all positions.
    pub fn mean(&mut self, x: Image) -> Image {
        let mut sum = x;
        for window in Window::tiles_in_steps(x.size, x.size) {
            let op = Op::Pool { op: PoolOp::Sum, value: sum.value, window };
            let value = self.image("sum", op, window.output, x.channels);
            sum = Image { value, size: window.output, ..x };
        }
        let share = 1.0 / (x.size[0] * x.size[1]) as f32;
        let share = self.layer.push(Region::Forward, "share", Op::Constant(share), Type::scalar());
        let value = self.image("mean", Op::Binary(BinaryOp::Mul, sum.value, share), sum.size, x.channels);
        Image { value, ..sum }
    }

    /// The sum of two images, or their product; what there is once a sample is so at all positions.
    pub fn combine(&mut self, op: BinaryOp, a: Image, b: Image) -> Image {
        let value = self.image(op.name(), Op::Binary(op, a.value, b.value), a.size, a.channels);
        Image { value, ..a }
    }

    /// Some channels of an image.
    pub fn slice(&mut self, x: Image, from: usize, channels: usize) -> Image {
        let op = Op::Slice { value: x.value, from, columns: channels };
        let value = self.image("slice", op, x.size, channels);
        Image { value, channels, ..x }
    }

    /// The channels of images side by side.
    pub fn concat(&mut self, images: &[Image]) -> Image {
        let [first, rest @ ..] = images else { unreachable!("something is put together") };
        rest.iter().fold(*first, |a, b| {
            let channels = a.channels + b.channels;
            let value = self.image("concat", Op::Concat(a.value, b.value), a.size, channels);
            Image { value, channels, ..a }
        })
    }

    /// The network with these logits.
    pub fn finish(mut self, logits: Image) -> Module {
        self.module.classes = logits.channels;
        self.layer.outputs = vec![logits.value];
        self.module.layers.push(self.layer);
        self.module
    }
}

/// A window of `kernel` taps with as much padding as keeps the size at stride 1.
pub fn same(size: [usize; 2], kernel: usize, stride: usize) -> Window {
    let output = size.map(|size| size.div_ceil(stride));
    Window::new(size, output, [kernel; 2], [stride; 2], [kernel / 2; 2])
}

/// Convolutions, pools with and without overlap, and dense layers on top (LeNet, VGG).
pub fn plain(batch: usize) -> Module {
    let (mut net, x) = Network::new("plain", 3, [9, 7], batch);
    let y = net.conv("conv1", x, 5, same(x.size, 3, 1));
    let y = net.activate(y, Activation::Relu);
    let y = net.max_pool(y, Window::tiles(y.size, [2, 2]));
    let dilated =
        Window { dilation: [2, 1], pad: [2, 0], ..Window::new(y.size, [4, 2], [3, 2], [1; 2], [0; 2]) };
    let y = net.conv("conv2", y, 6, dilated);
    let y = net.activate(y, Activation::LeakyRelu(0.1));
    let y = net.max_pool(y, same(y.size, 3, 2));
    let y = net.dense("fc1", y, 11);
    let y = net.activate(y, Activation::Relu);
    let y = net.dense("fc2", y, 3);
    net.finish(y)
}

/// Residual blocks, one of them with a projection on its shortcut, and a mean at the end (ResNet).
pub fn residual(batch: usize) -> Module {
    let (mut net, x) = Network::new("residual", 2, [6, 5], batch);
    let y = net.conv("stem", x, 4, same(x.size, 3, 1));
    let start = net.activate(y, Activation::Relu);
    let y = net.conv("a1", start, 4, same(start.size, 3, 1));
    let y = net.activate(y, Activation::Relu);
    let y = net.conv("a2", y, 4, same(y.size, 3, 1));
    let y = net.combine(BinaryOp::Add, y, start);
    let middle = net.activate(y, Activation::Relu);
    let y = net.conv("b1", middle, 7, same(middle.size, 3, 2));
    let y = net.activate(y, Activation::Relu);
    let y = net.conv("b2", y, 7, same(y.size, 3, 1));
    let short = net.conv("b.short", middle, 7, same(middle.size, 1, 2));
    let y = net.combine(BinaryOp::Add, y, short);
    let y = net.activate(y, Activation::Relu);
    let y = net.mean(y);
    let y = net.dense("fc", y, 3);
    net.finish(y)
}

/// Inverted bottlenecks with squeeze and excitation (MobileNet, EfficientNet).
pub fn inverted(batch: usize) -> Module {
    let (mut net, x) = Network::new("inverted", 3, [7, 6], batch);
    let clip = Activation::Clip { low: 0.0, high: 6.0 };
    let y = net.conv("stem", x, 4, same(x.size, 3, 2));
    let start = net.activate(y, clip);
    let y = net.conv("expand", start, 9, same(start.size, 1, 1));
    let y = net.activate(y, clip);
    let y = net.depthwise("filter", y, same(y.size, 3, 1));
    let y = net.activate(y, Activation::Silu);
    let squeezed = net.mean(y);
    let gate = net.conv("squeeze", squeezed, 3, same([1, 1], 1, 1));
    let gate = net.activate(gate, Activation::Relu);
    let gate = net.conv("excite", gate, 9, same([1, 1], 1, 1));
    let gate = net.activate(gate, Activation::Sigmoid);
    let y = net.combine(BinaryOp::Mul, y, gate);
    let y = net.conv("project", y, 4, same(y.size, 1, 1));
    let y = net.combine(BinaryOp::Add, y, start);
    let y = net.depthwise("filter2", y, same(y.size, 5, 2));
    let y = net.activate(y, clip);
    let y = net.mean(y);
    let y = net.dense("fc", y, 4);
    net.finish(y)
}

/// Branches side by side, and channels that grow by them (Inception, DenseNet), of images and of vectors.
pub fn branches(batch: usize) -> Module {
    let (mut net, x) = Network::new("branches", 3, [6, 5], batch);
    let y = net.conv("stem", x, 5, same(x.size, 3, 1));
    let y = net.activate(y, Activation::Relu);
    let a = net.conv("a", y, 3, same(y.size, 1, 1));
    let a = net.activate(a, Activation::Relu);
    let b = net.conv("b", y, 4, same(y.size, 3, 1));
    let b = net.activate(b, Activation::Relu);
    let c = net.max_pool(y, same(y.size, 3, 1));
    let c = net.conv("c", c, 2, same(y.size, 1, 1));
    let c = net.activate(c, Activation::Relu);
    let y = net.concat(&[a, b, c]);
    let d = net.conv("d", y, 4, same(y.size, 3, 1));
    let d = net.activate(d, Activation::Silu);
    let y = net.concat(&[y, d]);
    let e = net.conv("e", y, 6, same(y.size, 3, 2));
    let e = net.activate(e, Activation::Relu);
    let f = net.max_pool(y, same(y.size, 3, 2));
    let y = net.concat(&[e, f]);
    let u = net.dense("u", y, 5);
    let u = net.activate(u, Activation::Relu);
    let v = net.dense("v", y, 4);
    let v = net.activate(v, Activation::Tanh);
    let y = net.concat(&[u, v]);
    let y = net.dense("fc", y, 3);
    net.finish(y)
}

/// Convolutions of groups of channels, channels that pass a layer by, and channels in another order (ShuffleNet).
pub fn shuffled(batch: usize) -> Module {
    let (mut net, x) = Network::new("shuffled", 4, [5, 6], batch);
    let y = net.conv("stem", x, 8, same(x.size, 3, 2));
    let y = net.activate(y, Activation::Relu);
    let groups = [0, 1].map(|group| {
        let y = net.slice(y, 4 * group, 4);
        let y = net.conv(&format!("group{group}"), y, 3, same(y.size, 3, 1));
        net.activate(y, Activation::LeakyRelu(0.1))
    });
    let y = net.concat(&groups);
    let (left, right) = (net.slice(y, 0, 3), net.slice(y, 3, 3));
    let right = net.conv("right", right, 5, same(y.size, 1, 1));
    let right = net.activate(right, Activation::Relu);
    let y = net.concat(&[left, right]);
    let z = net.conv("gated", y, 8, same(y.size, 3, 1));
    let (value, gate) = (net.slice(z, 0, 5), net.slice(z, 3, 5));
    let gate = net.activate(gate, Activation::Sigmoid);
    let y = net.combine(BinaryOp::Mul, value, gate);
    let turned = [net.slice(y, 3, 2), net.slice(y, 0, 2)];
    let y = net.concat(&turned);
    let y = net.conv("mixed", y, 5, same(y.size, 3, 1));
    let y = net.activate(y, Activation::Relu);
    let y = net.mean(y);
    let y = net.dense("fc", y, 3);
    net.finish(y)
}

/// A residual block of dense layers, whose gradients lie across.
pub fn dense_residual(batch: usize) -> Module {
    let (mut net, x) = Network::new("dense_residual", 9, [1, 1], batch);
    let y = net.dense("stem", x, 13);
    let start = net.activate(y, Activation::Relu);
    let y = net.dense("a1", start, 7);
    let y = net.activate(y, Activation::Relu);
    let y = net.dense("a2", y, 13);
    let y = net.combine(BinaryOp::Add, y, start);
    let y = net.activate(y, Activation::Relu);
    let y = net.dense("fc", y, 3);
    net.finish(y)
}

/// All networks.
pub const NETWORKS: [fn(usize) -> Module; 6] =
    [plain, residual, inverted, branches, shuffled, dense_residual];

/// A network with options.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// As a frontend makes it.
    pub imported: Module,
    /// How it is trained.
    pub options: Options,
}

/// Each network with the options that change what its layers look like.
pub fn cases() -> Vec<Case> {
    type Change = (&'static str, fn(&mut Options));
    let changes: &[Change] = &[
        ("as it is", |_| {}),
        ("u8", |o| {
            o.preprocessing.input = DType::U8;
            o.preprocessing.scale = 1.0 / 128.0;
            o.preprocessing.mean = vec![1.0];
        }),
        ("not normalized", |o| o.normalization = Normalization::None),
        ("momentum", |o| o.momentum = 0.9),
        ("look-ahead", |o| o.look_ahead = LookAhead::Scalar),
        ("blocks", |o| o.unit = Unit::Block),
        ("blocks not normalized", |o| (o.unit, o.normalization) = (Unit::Block, Normalization::None)),
        ("blocks with momentum and look-ahead", |o| {
            (o.unit, o.look_ahead, o.momentum) = (Unit::Block, LookAhead::Scalar, 0.9);
        }),
        ("hop", |o| o.look_ahead = LookAhead::Hop),
        ("hop, blocks, not normalized", |o| {
            (o.look_ahead, o.unit, o.normalization) = (LookAhead::Hop, Unit::Block, Normalization::None);
        }),
        ("hop, blocks", |o| (o.look_ahead, o.unit) = (LookAhead::Hop, Unit::Block)),
        ("heads", |o| o.predict = Predict::Heads),
        ("float", |o| o.precision = Precision::Float),
        ("one row", |o| o.batch = 1),
    ];
    let mut cases = Vec::new();
    for network in NETWORKS {
        for recipe in RECIPES.iter().filter(|recipe| !recipe.options().overlays_labels()) {
            for (change_name, change) in changes {
                let mut options = Options { batch: 3, ..recipe.options() };
                change(&mut options);
                let imported = network(options.batch);
                let name = format!("{} {} {change_name}", imported.name, recipe.name);
                cases.push(Case { name, imported, options });
            }
        }
    }
    cases
}
