//! Operations from text.

use super::lexer::Token;
use super::parse::{Parsed, Parser};
use crate::arena::Handle;
use crate::module::{
    Activation, BinaryOp, Control, Op, Param, PoolOp, ReduceOp, Rounding, Sgd, UnaryOp, Value,
};
use crate::window::Window;

impl Parser<'_, '_> {
    pub(super) fn op(&mut self) -> Parsed<Op> {
        let place = self.peek();
        let name = self.word("an operation")?;
        if let Some(&op) = UnaryOp::ALL.iter().find(|op| op.name() == name) {
            return Ok(Op::Unary(op, self.value()?));
        }
        if let Some(&op) = BinaryOp::ALL.iter().find(|op| op.name() == name) {
            return Ok(Op::Binary(op, self.value()?, self.next_value()?));
        }
        let op = self.source(name)?;
        let op = if op.is_none() { self.function(name)? } else { op };
        let op = if op.is_none() { self.effect(name)? } else { op };
        op.ok_or_else(|| place.fail(format!("there is no operation `{name}`")))
    }

    /// Operations without operands.
    fn source(&mut self, name: &str) -> Parsed<Option<Op>> {
        Ok(Some(match name {
            "operand" => Op::Operand(self.integer()?),
            "input" => Op::Input,
            "target" => Op::Target,
            "overlaid" => Op::Overlaid { stream: self.whole("stream")? },
            "polarity" => Op::Polarity,
            "control" => Op::Control(self.one_of("a control", &Control::ALL, Control::name)?),
            "constant" => Op::Constant(self.float()?),
            "param" => Op::Param(self.param()?),
            "scale" => Op::ScaleOf(self.param()?),
            "ahead" => Op::Ahead,
            _ => return Ok(None),
        }))
    }

    fn function(&mut self, name: &str) -> Parsed<Option<Op>> {
        Ok(Some(match name {
            "dot" => Op::Dot { lhs: self.value()?, rhs: self.next_value()? },
            "window" => Op::Window { value: self.value()?, window: self.next_window()? },
            "pool" => {
                let op = self.one_of("a pool", &PoolOp::ALL, PoolOp::name)?;
                Op::Pool { op, value: self.next_value()?, window: self.next_window()? }
            }
            "max_grad" => {
                let (input, output, grad) = (self.value()?, self.next_value()?, self.next_value()?);
                Op::MaxGrad { input, output, grad, window: self.next_window()? }
            }
            "depthwise" => {
                let (value, weight) = (self.value()?, self.next_value()?);
                Op::Depthwise { value, weight, window: self.next_window()? }
            }
            "depthwise_grad" => {
                let (grad, value) = (self.value()?, self.next_value()?);
                Op::DepthwiseGrad { grad, value, window: self.next_window()? }
            }
            "back" => Op::Back {
                weight: self.value()?,
                taps: self.next_whole("taps")?,
                groups: self.next_whole("groups")?,
            },
            "pixels" => Op::Pixels { value: self.value()?, channels: self.next_whole("channels")? },
            "reshape" => Op::Reshape(self.value()?),
            "slice" => {
                let (value, from) = (self.value()?, self.next_whole("from")?);
                Op::Slice { value, from, columns: self.next_whole("columns")? }
            }
            "concat" => Op::Concat(self.value()?, self.next_value()?),
            "transpose" => Op::Transpose(self.value()?),
            "activate" => Op::Activate(self.activation()?, self.next_value()?),
            "activate_grad" => {
                let activation = self.activation()?;
                Op::ActivateGrad { activation, output: self.next_value()?, grad: self.next_value()? }
            }
            "convert" => Op::Convert(self.value()?),
            "one_hot" => Op::OneHot { labels: self.value()?, classes: self.next_whole("classes")? },
            "overlay" => Op::Overlay {
                value: self.value()?,
                labels: self.next_value()?,
                classes: self.next_whole("classes")?,
                on: self.next_number("on")?,
                off: self.next_number("off")?,
            },
            "reduce" => {
                let op = self.one_of("a reduction", &ReduceOp::ALL, ReduceOp::name)?;
                Op::Reduce(op, self.next_value()?)
            }
            "splat" => Op::Splat(self.value()?),
            "quantize" => {
                let (value, scale) = (self.value()?, self.next_value()?);
                Op::Quantize { value, scale, rounding: self.next_rounding()? }
            }
            _ => return Ok(None),
        }))
    }

    fn effect(&mut self, name: &str) -> Parsed<Option<Op>> {
        Ok(Some(match name {
            "publish" => Op::Publish(self.value()?),
            "score" => Op::Score { value: self.value()?, accumulate: self.next_accumulate()? },
            "report" => Op::Report(self.value()?),
            "track" => {
                let (param, observed) = (self.param()?, self.next_value()?);
                Op::Track { param, observed, decay: self.next_number("decay")? }
            }
            "assign" => Op::Assign { param: self.param()?, value: self.next_value()? },
            "sgd" => Op::Sgd(self.sgd()?),
            _ => return Ok(None),
        }))
    }

    fn sgd(&mut self) -> Parsed<Sgd> {
        let param = self.param()?;
        let (grad, factor) = (self.next_value()?, self.next_value()?);
        let stream = self.next_whole("stream")?;
        let momentum = if self.accept(',') { Some(self.momentum()?) } else { None };
        Ok(Sgd { param, grad, factor, stream, momentum })
    }

    fn momentum(&mut self) -> Parsed<(Handle<Param>, f32)> {
        self.keyword("momentum")?;
        self.mark('(')?;
        let velocity = self.param()?;
        self.mark(',')?;
        let momentum = self.float()?;
        self.mark(')')?;
        Ok((velocity, momentum))
    }

    /// `relu` or `clip(0, 6)`.
    fn activation(&mut self) -> Parsed<Activation> {
        let place = self.peek();
        let name = self.word("an activation")?;
        let find = |numbers| Activation::all(numbers).into_iter().find(|function| function.name() == name);
        let Some(found) = find([0.0; 2]) else {
            let names = Activation::all([0.0; 2]).map(Activation::name);
            let help = format!("there are: {}", names.join(", "));
            return Err(place.fail(format!("`{name}` is no activation")).with_help(help));
        };
        let mut numbers = [0.0; 2];
        let count = found.numbers().len();
        for (index, number) in numbers[..count].iter_mut().enumerate() {
            self.mark(if index == 0 { '(' } else { ',' })?;
            *number = self.float()?;
        }
        if count > 0 {
            self.mark(')')?;
        }
        Ok(find(numbers).unwrap_or(found))
    }

    fn next_value(&mut self) -> Parsed<Handle<Value>> {
        self.mark(',')?;
        self.value()
    }

    /// `name(7)`.
    fn whole<T: std::str::FromStr>(&mut self, name: &str) -> Parsed<T> {
        self.keyword(name)?;
        self.mark('(')?;
        let value = self.integer()?;
        self.mark(')')?;
        Ok(value)
    }

    fn next_whole<T: std::str::FromStr>(&mut self, name: &str) -> Parsed<T> {
        self.mark(',')?;
        self.whole(name)
    }

    /// `, name(0.5)`.
    fn next_number(&mut self, name: &str) -> Parsed<f32> {
        self.mark(',')?;
        self.keyword(name)?;
        self.mark('(')?;
        let value = self.float()?;
        self.mark(')')?;
        Ok(value)
    }

    /// `, input(8, 8), output(4, 4), kernel(3, 3), stride(2, 2), pad(1, 1)`: input and output, and what is not the
    /// default.
    fn next_window(&mut self) -> Parsed<Window> {
        self.mark(',')?;
        let input = self.pair("input")?;
        self.mark(',')?;
        let mut window = Window::new(input, self.pair("output")?, [1; 2], [1; 2], [0; 2]);
        while self.accept(',') {
            let Token::Word(name) = self.peek().token else { return Err(self.expected("a window's size")) };
            match name {
                "kernel" => window.kernel = self.pair(name)?,
                "stride" => window.stride = self.pair(name)?,
                "dilation" => window.dilation = self.pair(name)?,
                "pad" => window.pad = self.pair(name)?,
                "spread" => window.spread = self.pair(name)?,
                "repeat" => {
                    window.spread = self.pair(name)?;
                    window.repeats = true;
                }
                _ => return Err(self.expected("`kernel`, `stride`, `dilation`, `pad`, `spread` or `repeat`")),
            }
        }
        Ok(window)
    }

    /// `name(1, 2)`.
    fn pair<T: std::str::FromStr>(&mut self, name: &str) -> Parsed<[T; 2]> {
        self.keyword(name)?;
        self.mark('(')?;
        let first = self.signed()?;
        self.mark(',')?;
        let second = self.signed()?;
        self.mark(')')?;
        Ok([first, second])
    }

    fn next_rounding(&mut self) -> Parsed<Rounding> {
        self.mark(',')?;
        match self.peek().token {
            Token::Word("nearest") => {
                self.keyword("nearest")?;
                Ok(Rounding::Nearest)
            }
            Token::Word("stochastic") => Ok(Rounding::Stochastic(self.whole("stochastic")?)),
            _ => Err(self.expected("`nearest` or `stochastic(stream)`")),
        }
    }

    fn next_accumulate(&mut self) -> Parsed<bool> {
        self.mark(',')?;
        let name = |accumulate| if accumulate { "accumulate" } else { "set" };
        self.one_of("`set` or `accumulate`", &[false, true], name)
    }
}
