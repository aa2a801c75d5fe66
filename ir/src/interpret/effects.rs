//! What effects do, once all values of their layer are known.

use super::evaluate::{index, operand_of};
use super::state::{Fixed, Stored};
use super::{Data, Machine, Tensor, Values};
use crate::arena::Handle;
use crate::elementwise;
use crate::module::{Layer, Op, Param, Sgd, Value};
use crate::numerics::{Arith, Number, Scalar, draw_half, halve, sgd_step, stream_key};
use crate::types::DType;

impl Machine<'_> {
    /// Applies one effect.
    pub(super) fn apply(&mut self, layer: &Layer, values: &Values, op: &Op) {
        let of = |operand: Handle<Value>| operand_of(values, operand);
        match op {
            Op::Score { value, accumulate } => self.score(of(*value), *accumulate),
            Op::Report(loss) => self.outcome.losses.push((layer.name.clone(), of(*loss).number(0).as_f32())),
            Op::Track { param, observed, decay } => {
                let range = self.state.read(*param).number(0);
                let range = elementwise::track(&mut Scalar, range, of(*observed).number(0), *decay);
                self.state.params[param.index()] = Stored::Plain(Tensor::scalar(range.as_f32()));
            }
            Op::Assign { param, value } => {
                self.state.params[param.index()] = Stored::Plain(of(*value).clone());
            }
            Op::Sgd(sgd) => self.sgd(sgd, of(sgd.grad), of(sgd.factor).number(0)),
            // Collected by the first sweep.
            Op::Publish(_) => {}
            _ => unreachable!("not an effect"),
        }
    }

    fn score(&mut self, value: &Tensor, accumulate: bool) {
        let value = value.to_f32s();
        let old = self.outcome.scores.take().filter(|_| accumulate);
        self.outcome.scores = Some(match old {
            None => value,
            Some(old) => old.iter().zip(&value).map(|(old, value)| old + value).collect(),
        });
    }

    fn sgd(&mut self, sgd: &Sgd, grad: &Tensor, factor: Number) {
        let key = stream_key(&mut Scalar, Number::I32(self.controls.key), sgd.stream);
        let momentum = sgd.momentum.map(|(velocity, momentum)| (self.take(velocity), momentum));
        let mut step = Step { grad, factor, key, momentum };
        let weight = match self.take(sgd.param) {
            Stored::Plain(weight) => Stored::Plain(step.float(weight)),
            Stored::Fixed(mut weight) => {
                step.fixed(&mut weight);
                Stored::Fixed(weight)
            }
        };
        self.state.params[sgd.param.index()] = weight;
        if let (Some((velocity, _)), Some((stored, _))) = (sgd.momentum, step.momentum) {
            self.state.params[velocity.index()] = stored;
        }
    }

    /// Takes a parameter out of the state, to be put back changed.
    fn take(&mut self, param: Handle<Param>) -> Stored {
        std::mem::replace(&mut self.state.params[param.index()], Stored::Plain(Tensor::f32(0, 0, Vec::new())))
    }
}

/// One optimizer step of one weight.
struct Step<'a> {
    grad: &'a Tensor,
    factor: Number,
    key: Number,
    /// Velocity and momentum.
    momentum: Option<(Stored, f32)>,
}

impl Step<'_> {
    fn gradient(&self, position: usize) -> Number {
        match self.grad.number(position) {
            float @ Number::F32(_) => float,
            integer @ Number::I32(_) => Scalar.to_f32(integer),
        }
    }

    fn float(&mut self, weight: Tensor) -> Tensor {
        let (rows, columns) = (weight.rows, weight.columns);
        Tensor::fill(DType::F32, rows, columns, |row, column| {
            let position = row * columns + column;
            let momentum = self.momentum.as_ref().map(|(velocity, momentum)| match velocity {
                Stored::Plain(velocity) => (velocity.number(position), Number::F32(*momentum)),
                Stored::Fixed(_) => unreachable!("a velocity is no fixed-point weight"),
            });
            let gradient = self.gradient(position);
            let (weight, velocity) =
                elementwise::sgd_float(&mut Scalar, weight.number(position), gradient, self.factor, momentum);
            if let (Some(Data::F32(data)), Some(velocity)) = (self.velocity(), velocity) {
                data[position] = velocity.as_f32();
            }
            weight
        })
    }

    /// Channel by channel: all elements, then, if one of them saturated, the channel's new scale.
    fn fixed(&mut self, weight: &mut Fixed) {
        let group = weight.group();
        for channel in 0..weight.scales.len() {
            let positions = channel * group..(channel + 1) * group;
            let scale = weight.scales[channel];
            let factor = elementwise::fixed_factor(&mut Scalar, self.factor, Number::F32(scale));
            let mut saturated = false;
            for position in positions.clone() {
                saturated |= self.element(weight, position, factor);
            }
            if saturated {
                weight.scales[channel] = scale * 2.0;
                positions.for_each(|position| self.halve(weight, position));
            }
        }
    }

    /// Moves one element; whether it saturated.
    fn element(&mut self, weight: &mut Fixed, position: usize, factor: Number) -> bool {
        let m = &mut Scalar;
        let (row, column) = (position / weight.columns, position % weight.columns);
        let noise = draw_half(m, self.key, index(row), index(column));
        let old = Number::I32(weight.weights[position]);
        let gradient = self.gradient(position);
        let momentum = self.momentum.as_ref().map(|&(_, momentum)| Number::F32(momentum));
        let velocity = self.velocity().map(|velocity| match velocity {
            Data::I16(data) => Number::F32(data[position].into()),
            _ => unreachable!("the velocity of a fixed-point weight is i16"),
        });
        let new = sgd_step(m, old, gradient, factor, noise, velocity.zip(momentum));
        weight.weights[position] = new.weight.as_i32();
        if let (Some(Data::I16(data)), Some(velocity)) = (self.velocity(), new.velocity) {
            data[position] = velocity.as_i32() as i16;
        }
        new.saturated.as_i32() != 0
    }

    fn halve(&mut self, weight: &mut Fixed, position: usize) {
        let half = |value: i32| halve(&mut Scalar, Number::I32(value)).as_i32();
        weight.weights[position] = half(weight.weights[position]);
        if let Some(Data::I16(data)) = self.velocity() {
            data[position] = half(data[position].into()) as i16;
        }
    }

    fn velocity(&mut self) -> Option<&mut Data> {
        match &mut self.momentum {
            Some((Stored::Plain(velocity), _)) => Some(&mut velocity.data),
            _ => None,
        }
    }
}
