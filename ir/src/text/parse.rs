//! Modules from text.
//!
//! The grammar has no recursion and every step consumes a token, so neither depth nor time can run away.

use std::collections::HashMap;

use super::lexer::{Placed, Token, lex};
use crate::arena::{Arena, Handle};
use crate::diagnostics::Diagnostic;
use crate::module::{
    Granularity, Layer, LayerRole, Module, Param, ParamRole, ParamStorage, Phase, Region, RowPlan, Value,
};
use crate::types::{DType, Dim, Type};
use crate::verify::result_type;

/// Reads a module. What it means is not checked: see [`verify`](crate::verify::verify).
///
/// # Errors
/// The first thing that cannot be read, with its line and column.
pub fn parse(text: &str) -> Result<Module, Diagnostic> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens: &tokens, position: 0, params: HashMap::new(), values: HashMap::new() };
    let module = parser.module()?;
    match parser.peek().token {
        Token::End => Ok(module),
        _ => Err(parser.expected("the end")),
    }
}

pub(super) type Parsed<T> = Result<T, Diagnostic>;

pub(super) struct Parser<'t, 'a> {
    /// Ends with [`Token::End`].
    tokens: &'t [Placed<'a>],
    position: usize,
    params: HashMap<&'a str, Handle<Param>>,
    /// Of the layer at hand.
    values: HashMap<&'a str, Handle<Value>>,
}

/// Tokens.
impl<'a> Parser<'_, 'a> {
    pub(super) fn peek(&self) -> Placed<'a> {
        self.tokens[self.position]
    }

    fn advance(&mut self) {
        self.position = (self.position + 1).min(self.tokens.len() - 1);
    }

    /// The complaint that something else should stand here.
    pub(super) fn expected(&self, what: &str) -> Diagnostic {
        let found = self.peek();
        found.fail(format!("expected {what}, found {}", found.token.describe()))
    }

    /// Takes a mark if it is next.
    pub(super) fn accept(&mut self, mark: char) -> bool {
        let found = self.peek().token == Token::Mark(mark);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn mark(&mut self, mark: char) -> Parsed<()> {
        if self.accept(mark) { Ok(()) } else { Err(self.expected(&format!("`{mark}`"))) }
    }

    fn is_word(&self, word: &str) -> bool {
        self.peek().token == Token::Word(word)
    }

    pub(super) fn keyword(&mut self, word: &str) -> Parsed<()> {
        if !self.is_word(word) {
            return Err(self.expected(&format!("`{word}`")));
        }
        self.advance();
        Ok(())
    }

    pub(super) fn word(&mut self, what: &str) -> Parsed<&'a str> {
        let Token::Word(word) = self.peek().token else { return Err(self.expected(what)) };
        self.advance();
        Ok(word)
    }

    /// The one of `all` that is called like the next word.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        what: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Parsed<T> {
        let Token::Word(word) = self.peek().token else { return Err(self.expected(what)) };
        let Some(&found) = all.iter().find(|&&candidate| name(candidate) == word) else {
            let names: Vec<&str> = all.iter().map(|&candidate| name(candidate)).collect();
            return Err(self.expected(what).with_help(format!("there are: {}", names.join(", "))));
        };
        self.advance();
        Ok(found)
    }

    fn symbol(&mut self) -> Parsed<&'a str> {
        let Token::Symbol(name) = self.peek().token else { return Err(self.expected("an `@name`")) };
        self.advance();
        Ok(name)
    }

    /// A number without sign or fraction.
    pub(super) fn integer<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        let found = self.peek();
        let Token::Number(text) = found.token else { return Err(self.expected("a whole number")) };
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.expected("a whole number"));
        }
        self.advance();
        text.parse().map_err(|_| found.fail(format!("`{text}` is too large")))
    }

    /// A whole number, with a sign where `T` has one.
    pub(super) fn signed<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        let found = self.peek();
        let Token::Number(text) = found.token else { return Err(self.expected("a whole number")) };
        self.advance();
        text.parse().map_err(|_| found.fail(format!("`{text}` is no whole number that fits here")))
    }

    pub(super) fn float(&mut self) -> Parsed<f32> {
        let found = self.peek();
        let (Token::Number(text) | Token::Word(text)) = found.token else {
            return Err(self.expected("a number"));
        };
        let infinite = matches!(text, "inf" | "-inf");
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte));
        let value = if plain || infinite { text.parse::<f32>().ok() } else { None };
        let value = value.ok_or_else(|| self.expected("a number"))?;
        if value.is_infinite() && !infinite {
            return Err(found.fail(format!("`{text}` is too large")));
        }
        self.advance();
        Ok(value)
    }
}

/// Names.
impl Parser<'_, '_> {
    pub(super) fn param(&mut self) -> Parsed<Handle<Param>> {
        let place = self.peek();
        let name = self.symbol()?;
        self.params.get(name).copied().ok_or_else(|| place.fail(format!("there is no param `@{name}`")))
    }

    pub(super) fn value(&mut self) -> Parsed<Handle<Value>> {
        let place = self.peek();
        let Token::Value(name) = place.token else { return Err(self.expected("a `%value`")) };
        self.advance();
        self.values.get(name).copied().ok_or_else(|| place.fail(format!("there is no `%{name}` before this")))
    }
}

/// Declarations.
impl Parser<'_, '_> {
    fn module(&mut self) -> Parsed<Module> {
        self.keyword("module")?;
        let name = self.symbol()?.to_string();
        let phase = self.one_of("a phase", &Phase::ALL, Phase::name)?;
        self.mark('{')?;
        self.keyword("input")?;
        let input = self.dtype()?;
        self.mark('[')?;
        let features = self.integer()?;
        self.mark(']')?;
        self.keyword("classes")?;
        let classes = self.integer()?;
        self.keyword("batch")?;
        let batch = self.integer()?;
        self.keyword("rows")?;
        let rows = self.one_of("a row plan", &RowPlan::ALL, RowPlan::name)?;
        let (params, layers) = (Arena::default(), Vec::new());
        let mut module = Module { name, phase, batch, features, input, classes, rows, params, layers };
        while self.is_word("param") {
            self.declare_param(&mut module)?;
        }
        while self.is_word("layer") {
            let layer = self.layer(&module)?;
            module.layers.push(layer);
        }
        if self.accept('}') { Ok(module) } else { Err(self.expected("`param`, `layer` or `}`")) }
    }

    fn dtype(&mut self) -> Parsed<DType> {
        self.one_of("an element type", &DType::ALL, DType::name)
    }

    fn declare_param(&mut self, module: &mut Module) -> Parsed<()> {
        self.keyword("param")?;
        let place = self.peek();
        let name = self.symbol()?;
        self.mark(':')?;
        let storage = self.storage()?;
        self.mark('[')?;
        let rows = self.integer()?;
        self.mark(',')?;
        let columns = self.integer()?;
        self.mark(']')?;
        let role = self.role()?;
        let param = Param { name: name.to_string(), shape: [rows, columns], storage, role };
        if self.params.insert(name, module.params.push(param)).is_some() {
            return Err(place.fail(format!("there is another param `@{name}`")));
        }
        Ok(())
    }

    fn storage(&mut self) -> Parsed<ParamStorage> {
        let place = self.peek();
        match self.word("a storage")? {
            "f32" => Ok(ParamStorage::F32),
            "i8" => Ok(ParamStorage::I8),
            "i16" => Ok(ParamStorage::I16),
            "fixed16" => {
                self.mark('(')?;
                let all = [Granularity::Tensor, Granularity::Channel];
                let granularity = self.one_of("a granularity", &all, granularity_name)?;
                self.mark(')')?;
                Ok(ParamStorage::Fixed16(granularity))
            }
            other => {
                let help = "there are: f32, i8, i16, fixed16(channel), fixed16(tensor)";
                Err(place.fail(format!("`{other}` is no storage")).with_help(help))
            }
        }
    }

    fn role(&mut self) -> Parsed<ParamRole> {
        let place = self.peek();
        match self.word("a role")? {
            "weight" => Ok(ParamRole::Weight),
            "bias" => Ok(ParamRole::Bias),
            "head" => Ok(ParamRole::Head(self.parenthesized_float()?)),
            "groups" => Ok(ParamRole::Groups),
            "range" => Ok(ParamRole::Range(self.parenthesized_float()?)),
            "velocity" => Ok(ParamRole::Velocity),
            "constant" => Ok(ParamRole::Constant),
            other => {
                let help =
                    "there are: weight, bias, head(deviation), groups, range(start), velocity, constant";
                Err(place.fail(format!("`{other}` is no role")).with_help(help))
            }
        }
    }

    fn parenthesized_float(&mut self) -> Parsed<f32> {
        self.mark('(')?;
        let value = self.float()?;
        self.mark(')')?;
        Ok(value)
    }

    fn layer(&mut self, module: &Module) -> Parsed<Layer> {
        self.keyword("layer")?;
        let name = self.symbol()?;
        let role = self.one_of("a layer's role", &LayerRole::ALL, LayerRole::name)?;
        let mut layer = Layer::new(name, role);
        self.values.clear();
        self.mark('{')?;
        for region in Region::ALL {
            if self.is_word(region.name()) {
                self.advance();
                self.region(module, &mut layer, region)?;
            }
        }
        if !self.accept('}') {
            let names = Region::ALL.map(Region::name).join(", ");
            return Err(self
                .expected("a region or `}`")
                .with_help(format!("regions are, in order: {names}")));
        }
        Ok(layer)
    }

    fn region(&mut self, module: &Module, layer: &mut Layer, region: Region) -> Parsed<()> {
        self.mark('{')?;
        while let Token::Value(_) = self.peek().token {
            let value = self.define(module, layer)?;
            layer.region_mut(region).push(value);
        }
        if region == Region::Forward && self.is_word("yield") {
            self.advance();
            layer.outputs.push(self.value()?);
            while self.accept(',') {
                layer.outputs.push(self.value()?);
            }
        }
        if self.accept('}') { Ok(()) } else { Err(self.expected("a `%value` or `}`")) }
    }

    fn define(&mut self, module: &Module, layer: &mut Layer) -> Parsed<Handle<Value>> {
        let place = self.peek();
        let Token::Value(name) = place.token else { return Err(self.expected("a `%value`")) };
        self.advance();
        let declared = if self.accept(':') { Some(self.ty()?) } else { None };
        self.mark('=')?;
        let op = self.op()?;
        let ty = match declared {
            Some(ty) => ty,
            None => result_type(module, layer, &op).map_err(|message| place.fail(message))?,
        };
        let handle = layer.values.push(Value { name: name.to_string(), op, ty });
        if self.values.insert(name, handle).is_some() {
            return Err(place.fail(format!("there is another `%{name}` in this layer")));
        }
        Ok(handle)
    }

    fn ty(&mut self) -> Parsed<Type> {
        let dtype = self.dtype()?;
        self.mark('[')?;
        let rows = self.dim()?;
        self.mark(',')?;
        let columns = self.dim()?;
        self.mark(']')?;
        Ok(Type::new(dtype, rows, columns))
    }

    fn dim(&mut self) -> Parsed<Dim> {
        if self.is_word("rows") {
            self.advance();
            return Ok(Dim::Rows(if self.accept('*') { self.integer()? } else { 1 }));
        }
        self.integer().map(Dim::Const)
    }
}

fn granularity_name(granularity: Granularity) -> &'static str {
    match granularity {
        Granularity::Tensor => "tensor",
        Granularity::Channel => "channel",
    }
}
