//! Every invariant, broken once, with what people are told.

use ffc_ir::arena::Handle;
use ffc_ir::module::{Module, Op};
use ffc_ir::{parse, verify};

const QUANTIZED: &str = r"
module @m quantized {
  input u8[6]
  classes 3
  batch 4
  rows contrast

  param @a.weight: fixed16(channel)[5, 6] weight
  param @a.velocity: i16[5, 6] velocity
  param @a.bias: f32[1, 5] bias
  param @a.range: f32[1, 1] range(1)
  param @a.groups: i8[3, 5] groups
  param @b.weight: fixed16(tensor)[3, 5] weight

  layer @in prepare {
    forward {
      %x: u8[rows, 6] = input
      %f: f32[rows, 6] = convert %x
      %l: i32[rows, 1] = overlaid stream(1)
      %o: f32[rows, 6] = overlay %f, %l, classes(3), on(255), off(0)
      %s: f32[1, 1] = constant 2
      %q: i8[rows, 6] = quantize %o, %s, stochastic(2)
      yield %q, %s
    }
  }

  layer @a hidden {
    forward {
      %x: i8[rows, 6] = operand 0
      %s: f32[1, 1] = operand 1
      %w: i8[5, 6] = param @a.weight
      %dot: i32[rows, 5] = dot %x, %w
      %f: f32[rows, 5] = convert %dot
      %ws: f32[5, 1] = scale @a.weight
      %wt: f32[1, 5] = transpose %ws
      %z: f32[rows, 5] = mul %f, %wt
      %y: f32[rows, 5] = activate clip(0, inf), %z
      %q: i8[rows, 5] = quantize %y, %s, nearest
      yield %q, %s
    }
    head {
      %ss: i32[rows, 1] = reduce sum_squares, %q
      %g: f32[rows, 1] = convert %ss
      %gt: f32[1, rows] = transpose %g
      %loss: f32[1, 1] = reduce sum, %gt
      %report: f32[1, 1] = report %loss
      %score: f32[rows, 1] = score %g, set
    }
    look_ahead {
      %p: f32[rows, 1] = publish %g
      %ahead: f32[rows, 1] = ahead
      %e: f32[rows, 5] = splat %ahead
    }
    update {
      %dy: f32[rows, 5] = activate_grad leaky_relu(0.5), %y, %e
      %dq: i8[rows, 5] = quantize %dy, %s, stochastic(3)
      %dt: i8[5, rows] = transpose %dq
      %xt: i8[6, rows] = transpose %x
      %dw: i32[5, 6] = dot %dt, %xt
      %new: i8[5, 6] = sgd @a.weight, %dw, %s, stream(4), momentum(@a.velocity, 0.5)
      %t: f32[1, 1] = track @a.range, %loss, decay(0.9)
      %b: f32[1, 5] = param @a.bias
      %nb: f32[1, 5] = assign @a.bias, %b
    }
  }

  layer @b classifier {
    forward {
      %x: i8[rows, 5] = operand 0
      %w: i8[3, 5] = param @b.weight
      %dot: i32[rows, 3] = dot %x, %w
      %f: f32[rows, 3] = convert %dot
    }
    head {
      %one: f32[rows, 1] = polarity
      %score: f32[rows, 1] = score %one, accumulate
      %p: f32[rows, 1] = publish %one
    }
  }
}
";

const IMPORTED: &str = r"
module @m imported {
  input f32[6]
  classes 3
  batch 4
  rows plain
  param @w: f32[3, 6] weight
  layer @all whole {
    forward {
      %x: f32[rows, 6] = operand 0
      %w: f32[3, 6] = param @w
      %dot: f32[rows, 3] = dot %x, %w
      yield %dot
    }
  }
}
";

fn complaints(module: &Module) -> Vec<String> {
    verify(module).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// `base`, with `from` replaced by `to`, is refused with just this message.
#[track_caller]
fn refuses(base: &str, from: &str, to: &str, message: &str) {
    assert_eq!(base.matches(from).count(), 1, "`{from}` must occur once");
    let module = parse(&base.replace(from, to)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(complaints(&module).join("|"), message);
}

#[track_caller]
fn broken(from: &str, to: &str, message: &str) {
    refuses(QUANTIZED, from, to, message);
}

#[test]
fn the_bases_are_valid() {
    for text in [QUANTIZED, IMPORTED] {
        assert_eq!(complaints(&parse(text).unwrap()), [""; 0]);
    }
}

#[test]
fn sizes() {
    broken("batch 4", "batch 0", "`batch` is 0, not from 1 to 2147483647");
    broken("classes 3\n", "classes 0\n", "`classes` is 0, not from 1 to 2147483647");
    broken("input u8[6]", "input i16[6]", "the input is i16, not u8 or f32");
    broken("batch 4", "batch 1000000000", "u8[rows, 6] is empty or has more than 2147483647 elements");
    refuses(
        IMPORTED,
        "batch 4",
        "batch 400000000",
        "f32[rows, 6] is empty or has more than 2147483647 elements",
    );
    let contrast = IMPORTED.replace("classes 3", "classes 1");
    refuses(&contrast, "rows plain", "rows contrast", "contrast rows need at least 2 classes");
    let unread = "param @a.range: f32[1, 1] range(1)\n  param @unread: f32[0, 7] bias";
    broken(
        "param @a.range: f32[1, 1] range(1)",
        unread,
        "param `@unread`: f32[0, 7] is empty or has more than 2147483647 elements",
    );
    broken(
        "%g: f32[rows, 1] = convert %ss",
        "%g: f32[rows, 1] = convert %ss %huge: f32[rows, 999999999] = splat %g",
        "layer `@a`, value `%huge`: f32[rows, 999999999] is empty or has more than 2147483647 elements",
    );
}

#[test]
fn names() {
    let mut module = parse(IMPORTED).unwrap();
    module.layers[0].name = "7 of 9".into();
    let help = "\n  help: names are letters, digits, `_` and `.`, no digit first";
    assert_eq!(complaints(&module), [format!("layer `@7 of 9`: `7 of 9` cannot name a layer{help}")]);

    let mut module = parse(IMPORTED).unwrap();
    let first = module.layers[0].values[Handle::new(0)].name.clone();
    module.layers[0].values[Handle::new(1)].name = first;
    assert_eq!(complaints(&module), ["layer `@all`, value `%x`: two values have this name"]);

    let mut module = parse(IMPORTED).unwrap();
    let param = module.params[Handle::new(0)].clone();
    module.params.push(param);
    assert_eq!(complaints(&module), ["param `@w`: two params have this name"]);

    broken("layer @b classifier", "layer @a classifier", "layer `@a`: two layers have this name");
}

#[test]
fn params() {
    broken("f32[1, 5] bias", "i16[1, 5] bias", "param `@a.bias`: a bias is not stored as i16");
    broken("range(1)", "range(-1)", "param `@a.range`: a range does not start at -1");
    broken("range(1)", "constant", "layer `@a`, value `%t`: `@a.range` is not a range to track");
    broken("@a.range: f32[1, 1]", "@a.range: f32[2, 1]", "param `@a.range`: a range has one element");
    refuses(
        IMPORTED,
        "f32[3, 6] weight",
        "f32[3, 6] weight param @q: i8[1, 1] groups",
        "param `@q`: stored as i8, but in phase `imported` everything is f32",
    );
}

#[test]
fn handles() {
    let broken = |change: &dyn Fn(&mut Module), message: &str| {
        let mut module = parse(IMPORTED).unwrap();
        change(&mut module);
        assert_eq!(complaints(&module), [message]);
        // Printing does not need a valid module.
        assert!(module.to_string().starts_with("module @m"));
    };
    let dot = |module: &mut Module, lhs: usize, rhs: usize| {
        module.layers[0].values[Handle::new(2)].op = Op::Dot { lhs: Handle::new(lhs), rhs: Handle::new(rhs) };
    };
    broken(&|module| dot(module, 0, 9), "layer `@all`, value `%dot`: has an operand that does not exist");
    broken(
        &|module| dot(module, 2, 1),
        "layer `@all`, value `%dot`: uses `%dot`, which is not defined before it",
    );
    broken(
        &|module| module.layers[0].forward.push(Handle::new(9)),
        "layer `@all`: region `forward` names a value that does not exist",
    );
    broken(&|module| module.layers[0].forward.push(Handle::new(0)), "layer `@all`, value `%x`: runs twice");
    broken(
        &|module| module.layers[0].outputs.push(Handle::new(9)),
        "layer `@all`: an output is not a value of the forward region",
    );
    broken(
        &|module| module.layers[0].values[Handle::new(1)].op = Op::Param(Handle::new(5)),
        "layer `@all`, value `%w`: `param` names a param that does not exist",
    );
}

#[test]
fn order() {
    broken(
        "%e: f32[rows, 5] = splat %ahead",
        "%e: f32[rows, 5] = splat %p",
        "layer `@a`, value `%e`: uses `%p`, which is an effect",
    );
    let mut module = parse(QUANTIZED).unwrap();
    let late = *module.layers[1].update.last().unwrap();
    module.layers[1].outputs[1] = late;
    let expected = ["layer `@a`: an output is not a value of the forward region"];
    assert_eq!(complaints(&module), expected);
}

#[test]
fn types() {
    let at = |value: &str, message: &str| format!("layer `@a`, value `%{value}`: {message}");
    broken(
        "%wt: f32[1, 5]",
        "%wt: f32[5, 1]",
        &[
            at("wt", "is declared f32[5, 1], but `transpose` gives f32[1, 5]"),
            at("z", "f32[rows, 5] and f32[5, 1] do not broadcast in `mul`"),
        ]
        .join("|"),
    );
}

#[test]
fn operands_have_the_types_that_operations_take() {
    let one = |from: &str, to: &str, value: &str, message: &str| {
        broken(from, to, &format!("layer `@a`, value `%{value}`: {message}"));
    };
    one(
        "dot %x, %w\n      %f: f32[rows, 5]",
        "dot %s, %w\n      %f: f32[rows, 5]",
        "dot",
        "the operands of `dot` are f32[1, 1] and i8[5, 6], not both i8 or both f32",
    );
    one(
        "dot %dt, %xt",
        "dot %x, %xt",
        "dw",
        "the operands of `dot` are i8[rows, 6] and i8[6, rows], not of one depth",
    );
    one(
        "activate clip(0, inf), %z",
        "activate clip(0, inf), %dot",
        "y",
        "an operand of `activate` is i32[rows, 5], not f32",
    );
    one(
        "%y, %e",
        "%y, %g",
        "dy",
        "the operands of `activate_grad` are f32[rows, 5] and f32[rows, 1], not of one type",
    );
    one("convert %ss", "convert %z", "g", "an operand of `convert` is f32[rows, 5], not an integer");
    one("sum_squares, %q", "abs_max, %q", "ss", "`reduce abs_max` does not take i8[rows, 5]");
    one("quantize %y, %s", "quantize %y, %wt", "q", "an operand of `quantize` is f32[1, 5], not f32[1, 1]");
    one("scale @a.weight", "scale @a.bias", "ws", "`@a.bias` is not fixed-point and has no scale");
    one(
        "%e: f32[rows, 5] = splat %ahead",
        "%e: f32[rows, 5] = splat %gt",
        "e",
        "f32[1, rows] cannot be repeated to f32[rows, 5]",
    );
    one(
        "score %g",
        "score %y",
        "score",
        "an operand of `score` is f32[rows, 5], not f32[rows, 3] or f32[rows, 1]",
    );
    one("report %loss", "report %g", "report", "an operand of `report` is f32[rows, 1], not f32[1, 1]");
    one(
        "assign @a.bias, %b",
        "assign @a.bias, %s",
        "nb",
        "an operand of `assign` is f32[1, 1], not f32[1, 5]",
    );
    one(
        "assign @a.bias, %b",
        "assign @a.groups, %b",
        "nb",
        "`@a.groups` is not stored as f32 and cannot be assigned",
    );
    one(
        "%dw, %s",
        "%dq, %s",
        "new",
        "an operand of `sgd` is i8[rows, 5], not i32 or f32 of the shape of i8[5, 6]",
    );
    one("sgd @a.weight", "sgd @a.groups", "new", "`@a.groups` is not a weight, bias or head to train");
    one(
        "momentum(@a.velocity",
        "momentum(@a.bias",
        "new",
        "`@a.bias` is not an i16 velocity of the shape of `@a.weight`",
    );
    broken(
        "overlay %f, %l, classes(3)",
        "overlay %f, %l, classes(7)",
        "layer `@in`, value `%o`: an operand of `overlay` is f32[rows, 6], not wide enough for 7 classes",
    );
    broken(
        "overlay %f, %l, classes(3)",
        "overlay %f, %f, classes(3)",
        "layer `@in`, value `%o`: an operand of `overlay` is f32[rows, 6], not i32 with one column",
    );
}

#[test]
fn layers_take_what_is_handed_over() {
    broken(
        "%s: f32[1, 1] = operand 1",
        "%s: f32[1, 1] = operand 2",
        "layer `@a`, value `%s`: there is no operand 2: layer `@in` hands over 2",
    );
    broken(
        "%x: i8[rows, 5] = operand 0",
        "%x: i8[rows, 5] = operand 0 %y: f32[rows, 1] = operand 1",
        "layer `@b`, value `%y`: is declared f32[rows, 1], but `operand` gives f32[1, 1]",
    );
}

#[test]
fn phases() {
    refuses(
        IMPORTED,
        "module @m imported",
        "module @m quantized",
        "layer `@all`: role `whole` does not occur in phase `quantized`",
    );
    refuses(
        &IMPORTED.replace("whole", "hidden"),
        "module @m imported",
        "module @m quantized",
        "layer `@all`, value `%x`: the first layer has no operands, only `input`|\
         layer `@all`, value `%dot`: a `dot` of this type does not occur in phase `quantized`",
    );
    refuses(
        IMPORTED,
        "yield %dot",
        "%s = constant 1 %q = quantize %x, %s, nearest yield %dot",
        "layer `@all`, value `%q`: a `quantize` does not occur in phase `imported`",
    );
    refuses(
        IMPORTED,
        "operand 0",
        "operand 1",
        "layer `@all`, value `%x`: an imported module has one operand",
    );
    refuses(
        IMPORTED,
        "yield %dot\n    }",
        "yield %dot\n    } head { %p = polarity }",
        "layer `@all`: a whole layer has a forward region alone",
    );
    refuses(
        IMPORTED,
        "  layer @all whole",
        "  layer @none whole {} layer @all whole",
        "an imported module has one layer, not 2",
    );
}

#[test]
fn roles() {
    broken("layer @in prepare", "layer @in classifier", "layer `@in`: only the last layer is the classifier");
    broken(
        "layer @a hidden",
        "layer @a prepare",
        "layer `@a`: only the first layer prepares|layer `@a`: a prepare layer updates nothing",
    );
    let mut module = parse(QUANTIZED).unwrap();
    module.layers.clear();
    assert_eq!(complaints(&module), ["there is no layer"]);
}

#[test]
fn effects() {
    let at_a = |value: &str, message: &str| format!("layer `@a`, value `%{value}`: {message}");
    let assign = "%nb: f32[1, 5] = assign @a.bias, %b";
    broken(
        "%ss: i32",
        "%t2 = assign @a.range, %s %ss: i32",
        &at_a(
            "t2",
            "`assign` does not belong into region `head`|\
         layer `@a`, value `%t`: writes `@a.range` a second time",
        ),
    );
    broken(
        assign,
        &format!("{assign} %a2: f32[rows, 1] = ahead"),
        &at_a("a2", "`ahead` does not belong into region `update`"),
    );
    broken(
        "%y: f32[rows, 5] = activate",
        "%rep = report %s %y: f32[rows, 5] = activate",
        &format!(
            "{}|layer `@a`: there are 2 `report`, and one is the most",
            at_a("rep", "`report` does not belong into region `forward`")
        ),
    );
    broken(
        "%p: f32[rows, 1] = publish %g\n      %ahead: f32[rows, 1] = ahead",
        "%ahead: f32[rows, 1] = ahead %p: f32[rows, 1] = publish %ahead",
        &at_a("p", "publishes what depends on `ahead`, but all layers publish before any looks ahead"),
    );
    broken("score %g, set", "score %g, accumulate", &at_a("score", "adds to scores that nothing has set"));
    broken(
        "%score: f32[rows, 1] = score %one, accumulate",
        "%score: f32[rows, 3] = score %f, set",
        "layer `@b`, value `%score`: scores f32[rows, 3], where an earlier score is f32[rows, 1]",
    );
    broken(
        "%p: f32[rows, 1] = publish %one",
        "%p: f32[rows, 3] = publish %f",
        &at_a("ahead", "looks ahead at f32[rows, 1], but layer `@b` publishes f32[rows, 3]"),
    );
}

#[test]
fn writes_and_streams() {
    broken(
        "%one: f32[rows, 1] = polarity",
        "%one: f32[rows, 1] = polarity %r = param @a.range",
        "layer `@b`, value `%r`: reads `@a.range`, which layer `@a` writes",
    );
    broken("stream(4)", "stream(3)", "layer `@a`, value `%new`: draws from stream 3 like another value");
}

#[test]
fn attributes() {
    broken("clip(0, inf)", "clip(0, -inf)", "layer `@a`, value `%y`: `clip` from 0 to -inf has no inside");
    broken(
        "leaky_relu(0.5)",
        "leaky_relu(0)",
        "layer `@a`, value `%dy`: the slope of `leaky_relu` is 0, not positive",
    );
    broken("decay(0.9)", "decay(1.5)", "layer `@a`, value `%t`: `decay` is 1.5, not from 0 to 1");
    broken(
        "@a.velocity, 0.5",
        "@a.velocity, -0.5",
        "layer `@a`, value `%new`: `momentum` is -0.5, not from 0 to 1",
    );
    broken("constant 2", "constant inf", "layer `@in`, value `%s`: `constant` is inf, not finite");
    broken("on(255)", "on(-inf)", "layer `@in`, value `%o`: `on` is -inf, not finite");
    broken(
        "%o: f32[rows, 6] = overlay %f, %l, classes(3)",
        "%h: f32[rows, 0] = one_hot %l, classes(0) %o: f32[rows, 6] = overlay %f, %l, classes(3)",
        "layer `@in`, value `%h`: f32[rows, 0] is empty or has more than 2147483647 elements|\
         layer `@in`, value `%h`: `classes` is 0",
    );
}

#[test]
fn sums_fit() {
    broken(
        "batch 4",
        "batch 66573",
        "layer `@a`, value `%dw`: sums products along i8[5, rows], and only 133144 are sure to fit an i32\n  \
         help: a smaller batch has fewer rows",
    );
}
