//! The imported network, and how it is put together layer by layer.
//!
//! Both the importer and [`restore`](crate::restore) build through [`Builder`], so an imported module has one form,
//! whatever the file looked like: for each dense layer a dot, a bias where there is one, and at most one activation.

use ffc_ir::module::{Activation, BinaryOp, Layer, LayerRole, Module, Op, Param, ParamRole, ParamStorage};
use ffc_ir::module::{Phase, Region, RowPlan, Value};
use ffc_ir::types::{DType, Dim, Type};
use ffc_ir::{Arena, Handle};

use crate::import::Reason;
use crate::interface::{Interface, Rms};
use crate::names::{self, Names};

/// A network as it was imported.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// One layer `main`, phase `imported`: forward only, its output the logits.
    pub module: Module,
    /// Each parameter's values by its name, row by row.
    pub weights: Vec<(String, Vec<f32>)>,
    /// The goodness heads that our own exports predict with, as `<layer>.head`; no part of the module.
    pub heads: Vec<(String, Vec<f32>)>,
    /// The network's boundary in the file.
    pub interface: Interface,
}

/// Samples in a batch until the caller says otherwise.
const BATCH: usize = 128;

/// A weight matrix, row by row.
pub(crate) struct Matrix {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) values: Vec<f32>,
}

/// What the last thing built was.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tip {
    Input,
    Dense { bias: bool },
    Activated(Activation),
}

/// Builds the layer.
pub(crate) struct Builder {
    layer: Layer,
    params: Arena<Param>,
    weights: Vec<(String, Vec<f32>)>,
    heads: Vec<(String, Vec<f32>)>,
    names: Names,
    features: usize,
    tip: Tip,
    value: Handle<Value>,
    columns: usize,
    /// Name of the dense layer that is being built.
    current: String,
    /// Epsilon of a normalisation that waits for its dense layer.
    pending: Option<f32>,
    /// Of each dense layer.
    normalized: Vec<Option<f32>>,
    step: usize,
    /// Numbers copied so far.
    copied: usize,
}

/// More layers than anything that is trained on a device.
const LAYERS: usize = 1024;
/// A small file can share one constant between many layers, each of which gets a copy.
const COPIED: usize = 1 << 30;

/// What the builder made.
pub(crate) struct Built {
    pub(crate) module: Module,
    pub(crate) weights: Vec<(String, Vec<f32>)>,
    pub(crate) heads: Vec<(String, Vec<f32>)>,
    pub(crate) normalization: Option<Rms>,
}

impl Builder {
    pub(crate) fn new(input: &str, features: usize) -> Self {
        let mut layer = Layer::new("main", LayerRole::Whole);
        let name = names::clean(input, "x").unwrap_or_else(|| "input".to_string());
        let value = layer.push(Region::Forward, &name, Op::Operand(0), rows(features));
        Self {
            layer,
            params: Arena::default(),
            weights: Vec::new(),
            heads: Vec::new(),
            names: Names::default(),
            features,
            tip: Tip::Input,
            value,
            columns: features,
            current: String::new(),
            pending: None,
            normalized: Vec::new(),
            step: 0,
            copied: 0,
        }
    }

    /// Counts what was built: a value from an earlier step is no longer the last one.
    pub(crate) fn step(&self) -> usize {
        self.step
    }

    /// Accounts for a copy of a constant.
    pub(crate) fn charge(&mut self, numbers: usize) -> Result<(), Reason> {
        self.copied = self.copied.saturating_add(numbers);
        if self.copied <= COPIED { Ok(()) } else { Err(format!("more than {COPIED} parameters").into()) }
    }

    /// A normalisation in front of the next dense layer.
    pub(crate) fn normalize(&mut self, epsilon: f32) -> Result<(), Reason> {
        if self.pending.is_some() {
            return Err(Reason::from("two normalisations follow each other"));
        }
        self.pending = Some(epsilon);
        self.step += 1;
        Ok(())
    }

    /// A dense layer without bias.
    pub(crate) fn dense(&mut self, name: Option<String>, weight: Matrix) -> Result<(), Reason> {
        let Matrix { outputs, inputs, values } = weight;
        if inputs != self.columns {
            return Err(
                format!("the weight has {inputs} inputs, the activation {} features", self.columns).into()
            );
        }
        if outputs == 0 || inputs == 0 {
            return Err(format!("a weight of [{outputs}, {inputs}] is empty").into());
        }
        if self.normalized.len() == LAYERS {
            return Err(format!("more than {LAYERS} dense layers").into());
        }
        let number = self.normalized.len() + 1;
        self.current = self.names.unique(&name.unwrap_or_else(|| format!("dense{number}")));
        let rhs = self.param("weight", [outputs, inputs], ParamRole::Weight, values);
        let dot = Op::Dot { lhs: self.value, rhs };
        self.normalized.push(self.pending.take());
        self.columns = outputs;
        self.push("dot", dot, Tip::Dense { bias: false });
        Ok(())
    }

    /// Adds to the last dense layer's bias.
    pub(crate) fn bias(&mut self, values: Vec<f32>) -> Result<(), Reason> {
        if self.pending.is_some() {
            return Err(Reason::from("a bias after a normalisation"));
        }
        match self.tip {
            Tip::Dense { bias: false } => {
                let bias = self.param("bias", [1, self.columns], ParamRole::Bias, values);
                let sum = Op::Binary(BinaryOp::Add, self.value, bias);
                self.push("sum", sum, Tip::Dense { bias: true });
            }
            Tip::Dense { bias: true } => {
                let (_, bias) = self.weights.last_mut().expect("the last parameter is the bias");
                bias.iter_mut().zip(values).for_each(|(bias, value)| *bias += value);
                self.step += 1;
            }
            _ => {
                return Err(Reason::from("adding a constant is only supported as the bias of a dense layer"));
            }
        }
        Ok(())
    }

    /// The last dense layer's goodness head: no part of the network, but kept beside its weights.
    pub(crate) fn head(&mut self, values: Vec<f32>) {
        self.heads.push((format!("{}.head", self.current), values));
    }

    /// The last dense layer's activation.
    pub(crate) fn activate(&mut self, activation: Activation) -> Result<(), Reason> {
        match self.tip {
            _ if self.pending.is_some() => Err(Reason::from("an activation after a normalisation")),
            Tip::Input => Err(Reason::from("an activation before the first dense layer")),
            Tip::Activated(first) => {
                Err(format!("an activation directly after the activation `{}`", first.name()).into())
            }
            Tip::Dense { .. } => {
                check(activation)?;
                self.push(
                    activation.name(),
                    Op::Activate(activation, self.value),
                    Tip::Activated(activation),
                );
                Ok(())
            }
        }
    }

    /// The module, or why this is no network.
    pub(crate) fn finish(self, name: &str) -> Result<Built, String> {
        let normalization = self.normalization()?;
        match self.tip {
            Tip::Input => return Err("the network has no dense layer".to_string()),
            Tip::Activated(last) => {
                let task = "the task is classification with one score per class";
                return Err(format!("the network ends in the activation `{}`; {task}", last.name()));
            }
            Tip::Dense { .. } if self.columns < 2 => {
                return Err(
                    "the network has one output; the task is classification with one score per class".into(),
                );
            }
            Tip::Dense { .. } => {}
        }
        let mut layer = self.layer;
        layer.outputs.push(self.value);
        let name = names::clean(name, "network").unwrap_or_else(|| "network".to_string());
        let module = Module {
            name,
            phase: Phase::Imported,
            batch: BATCH,
            features: self.features,
            input: DType::F32,
            classes: self.columns,
            rows: RowPlan::Plain,
            params: self.params,
            layers: vec![layer],
        };
        Ok(Built { module, weights: self.weights, heads: self.heads, normalization })
    }

    /// One normalisation for all dense layers, the first perhaps left out.
    fn normalization(&self) -> Result<Option<Rms>, String> {
        if self.pending.is_some() {
            return Err("a normalisation follows the last dense layer".to_string());
        }
        let Some((first, rest)) = self.normalized.split_first() else { return Ok(None) };
        let epsilon = first.or_else(|| rest.iter().find_map(|&epsilon| epsilon));
        let Some(epsilon) = epsilon else { return Ok(None) };
        if rest.iter().any(|&other| other != Some(epsilon)) {
            return Err("the dense layers are not all normalised in the same way".to_string());
        }
        Ok(Some(Rms { epsilon, input: first.is_some() }))
    }

    fn param(&mut self, kind: &str, shape: [usize; 2], role: ParamRole, values: Vec<f32>) -> Handle<Value> {
        let name = format!("{}.{kind}", self.current);
        let param = Param { name: name.clone(), shape, storage: ParamStorage::F32, role };
        let ty = param.ty();
        let handle = self.params.push(param);
        self.weights.push((name.clone(), values));
        self.layer.push(Region::Forward, &name, Op::Param(handle), ty)
    }

    fn push(&mut self, kind: &str, op: Op, tip: Tip) {
        let name = format!("{}.{kind}", self.current);
        self.value = self.layer.push(Region::Forward, &name, op, rows(self.columns));
        self.tip = tip;
        self.step += 1;
    }
}

fn rows(columns: usize) -> Type {
    Type::new(DType::F32, Dim::ROWS, Dim::Const(columns))
}

fn check(activation: Activation) -> Result<(), Reason> {
    match activation {
        Activation::LeakyRelu(slope) if !(slope > 0.0 && slope.is_finite()) => {
            Err(format!("a slope of {slope}").into())
        }
        Activation::Clip { low, high } if low.is_nan() || high.is_nan() || low > high => {
            Err(format!("bounds {low} and {high}").into())
        }
        _ => Ok(()),
    }
}
