//! The interpreter against numbers worked out by hand.

use ffc_ir::interpret::{
    Batch, Controls, Data, Mode, Outcome, Samples, State, Stored, Tensor, step, step_traced,
};
use ffc_ir::module::Module;
use ffc_ir::numerics::WEIGHT_MAX;
use ffc_ir::{parse, verify};

const CONTROLS: Controls = Controls { rate: 0.5, lambda: 0.25, key: 12345 };

fn module(text: &str) -> Module {
    let module = parse(text).unwrap_or_else(|error| panic!("{error}"));
    if let Err(errors) = verify(&module) {
        panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    module
}

fn run(module: &Module, state: &mut State, inputs: Samples<'_>, labels: &[i32], mode: Mode) -> Outcome {
    let verified = verify(module).expect("checked before");
    step_traced(&verified, state, &Batch { inputs, labels }, &CONTROLS, mode).expect("a batch that fits")
}

fn value<'a>(outcome: &'a Outcome, layer: &str, name: &str) -> &'a Tensor {
    outcome.trace.as_ref().and_then(|trace| trace.get(layer, name)).expect("a value")
}

fn floats(outcome: &Outcome, layer: &str, name: &str) -> Vec<f32> {
    value(outcome, layer, name).to_f32s()
}

/// A module of one trained layer: `forward`, `head` and `update` regions around these lines.
fn one_layer(header: &str, forward: &str, head: &str, update: &str) -> Module {
    module(&format!(
        "module @m quantized {{ {header} layer @a hidden {{
            forward {{ {forward} }} head {{ {head} }} update {{ {update} }} }} }}"
    ))
}

#[test]
fn an_imported_network_takes_samples_as_floats() {
    let module = module(
        "module @m imported { input u8[2] classes 2 batch 2 rows plain
         param @w: f32[2, 2] weight param @b: f32[1, 2] bias
         layer @all whole { forward {
            %x: f32[rows, 2] = operand 0
            %w = param @w %dot = dot %x, %w
            %b = param @b %z = add %dot, %b
            %y = activate leaky_relu(0.5), %z
            yield %y
         } } }",
    );
    let mut state = State::new(&module);
    state.set_weights(module.param("w").unwrap(), &[1.0, -1.0, 0.5, 0.5]).unwrap();
    state.set_weights(module.param("b").unwrap(), &[0.0, 10.0]).unwrap();
    let outcome = run(&module, &mut state, Samples::U8(&[1, 3, 4, 2]), &[], Mode::Infer);
    assert_eq!(outcome.outputs, [Tensor::f32(2, 2, vec![-1.0, 12.0, 2.0, 13.0])]);
}

#[test]
fn quantized_contractions() {
    let module = one_layer(
        "input u8[3] classes 2 batch 2 rows plain param @w: fixed16(channel)[2, 3] weight",
        "%x = input %f = convert %x %s = constant 2 %q = quantize %f, %s, nearest
         %w = param @w %dot = dot %q, %w %ws = scale @w %n = reduce sum_squares, %q yield %dot",
        "",
        "",
    );
    let mut state = State::new(&module);
    let w = module.param("w").unwrap();
    state.set_weights(w, &[1.0, -0.5, 0.25, 0.0, 0.0, 3.0]).unwrap();
    let outcome = run(&module, &mut state, Samples::U8(&[10, 11, 13, 255, 0, 1]), &[], Mode::Infer);
    // Samples become 5, 5.5, 6.5 and 127.5, 0, 0.5, and these 5, 6, 6 and 127, 0, 0: ties go to the even neighbour.
    // The scale is 1.5 times the channel's largest weight over 127, so the largest becomes 127 / 1.5 = 84.67.
    assert_eq!(state.read(w), Tensor::i8(2, 3, vec![85, -42, 21, 0, 0, 85]));
    let expected = Tensor::i32(2, 2, vec![5 * 85 - 6 * 42 + 6 * 21, 6 * 85, 127 * 85, 0]);
    assert_eq!(outcome.outputs, [expected]);
    assert_eq!(state.scales(w).to_f32s(), [1.5 / 127.0, 3.0 * 1.5 / 127.0]);
}

#[test]
fn reductions_and_broadcasts() {
    let module = one_layer(
        "input f32[3] classes 2 batch 2 rows plain",
        "%x = input %s = reduce sum, %x %q = reduce sum_squares, %x %m = reduce max, %x %a = reduce abs_max, %x
         %xt = transpose %x %d = div %x, %s %n = neg %a
         %o: f32[rows, 2] = splat %m yield %s, %q, %m, %a, %xt, %d, %n, %o",
        "",
        "",
    );
    let outcome =
        run(&module, &mut State::new(&module), Samples::F32(&[1., -4., 2., 2., 2., 4.]), &[], Mode::Infer);
    let expected = [
        Tensor::f32(2, 1, vec![-1., 8.]),
        Tensor::f32(2, 1, vec![21., 24.]),
        Tensor::f32(2, 1, vec![2., 4.]),
        Tensor::f32(2, 1, vec![4., 4.]),
        Tensor::f32(3, 2, vec![1., 2., -4., 2., 2., 4.]),
        Tensor::f32(2, 3, vec![-1., 4., -2., 0.25, 0.25, 0.5]),
        Tensor::f32(2, 1, vec![-4., -4.]),
        Tensor::f32(2, 2, vec![2., 2., 4., 4.]),
    ];
    assert_eq!(outcome.outputs, expected);
}

/// A gradient per weight that the test sets as a constant parameter.
fn trained_weight(storage: &str, velocity: &str) -> Module {
    let momentum = if velocity.is_empty() { "" } else { ", momentum(@v, 0.5)" };
    one_layer(
        &format!(
            "input f32[1] classes 2 batch 1 rows plain
             param @w: {storage}[2, 2] weight {velocity} param @g: f32[2, 2] constant"
        ),
        "%x = input",
        "",
        &format!("%g = param @g %r = control rate %new = sgd @w, %g, %r, stream(7){momentum}"),
    )
}

fn train(module: &Module, state: &mut State) {
    run(module, state, Samples::F32(&[1.0]), &[0], Mode::Train);
}

#[test]
fn float_weights_follow_the_velocity() {
    let module = trained_weight("f32", "param @v: f32[2, 2] velocity");
    let mut state = State::new(&module);
    let [w, v, g] = ["w", "v", "g"].map(|name| module.param(name).unwrap());
    state.set_weights(w, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    state.set_weights(g, &[1.0, 0.0, -2.0, 8.0]).unwrap();
    train(&module, &mut state);
    assert_eq!(state.weights(v), [0.5, 0.0, -1.0, 4.0]);
    assert_eq!(state.weights(w), [0.5, 2.0, 4.0, 0.0]);
    train(&module, &mut state);
    assert_eq!(state.weights(v), [0.75, 0.0, -1.5, 6.0]);
    assert_eq!(state.weights(w), [-0.25, 2.0, 5.5, -6.0]);
}

fn fixed(state: &State, module: &Module) -> (Vec<i32>, Vec<f32>) {
    match state.stored(module.param("w").expect("the weight")) {
        Stored::Fixed(fixed) => (fixed.weights.clone(), fixed.scales.clone()),
        Stored::Plain(_) => panic!("a fixed-point weight"),
    }
}

#[test]
fn fixed_weights_move_by_the_expected_steps() {
    let module = trained_weight("fixed16(channel)", "");
    let mut state = State::new(&module);
    state.set_weights(module.param("w").unwrap(), &[1.0, -1.0, 0.5, 0.0]).unwrap();
    let (before, scales) = fixed(&state, &module);
    assert_eq!(before, [21675, -21675, 21675, 0]);
    // 100 and 0.25 steps of the first channel, of which the second has half the scale.
    let one = scales[0] / 256.0 / CONTROLS.rate;
    state.set_weights(module.param("g").unwrap(), &[100.0 * one, 0.0, 100.0 * one, -0.25 * one]).unwrap();
    train(&module, &mut state);
    let (after, same) = fixed(&state, &module);
    assert_eq!(same, scales);
    // Rounding is stochastic, and integers stay (up to the rounding of the factor, below a step).
    assert!((21574..=21576).contains(&after[0]), "{after:?}");
    assert_eq!(after[1], -21675);
    assert!((21474..=21476).contains(&after[2]), "{after:?}");
    assert!((0..=1).contains(&after[3]), "{after:?}");
}

#[test]
fn a_velocity_saturates_and_is_halved_with_its_channel() {
    let module = trained_weight("fixed16(channel)", "param @v: i16[2, 2] velocity");
    let mut state = State::new(&module);
    let [w, v, g] = ["w", "v", "g"].map(|name| module.param(name).unwrap());
    state.set_weights(w, &[1.0, -0.5, 1.0, 0.5]).unwrap();
    state.set_weights(g, &[-1.0e6, 0.0, 0.0, 0.0]).unwrap();
    state.set_weights(v, &[0.0, 96.0, 64.0, 0.0]).unwrap();
    // The velocity stops at -32768 sixteenths of a step: 2048 steps, six of which use up the headroom.
    let (_, scales) = fixed(&state, &module);
    for steps in 1..=5 {
        train(&module, &mut state);
        assert_eq!(fixed(&state, &module).1, scales);
        assert!((fixed(&state, &module).0[0] - 21675 - 2048 * steps).abs() <= 1);
    }
    assert_eq!(state.weights(v), [-32768.0, 3.0, 2.0, 0.0]);
    train(&module, &mut state);
    let (after, rescaled) = fixed(&state, &module);
    assert_eq!((after[0], rescaled), (WEIGHT_MAX / 2, vec![scales[0] * 2.0, scales[1]]));
    // 3 becomes 1.5 and is rounded at random, then it is halved, up.
    let velocity = state.weights(v);
    assert_eq!((velocity[0], velocity[2]), (-16384.0, 1.0));
    assert_eq!(velocity[1], 1.0);
}

#[test]
fn saturation_halves_weights_and_doubles_the_scale() {
    let module = trained_weight("fixed16(channel)", "");
    let mut state = State::new(&module);
    state.set_weights(module.param("w").unwrap(), &[1.0, -0.5, 1.0, 0.5]).unwrap();
    state.set_weights(module.param("g").unwrap(), &[-1.0e6, 0.0, 0.0, 0.0]).unwrap();
    let (before, scales) = fixed(&state, &module);
    train(&module, &mut state);
    let (after, rescaled) = fixed(&state, &module);
    assert_eq!(rescaled, [scales[0] * 2.0, scales[1]]);
    assert_eq!(after, [WEIGHT_MAX / 2, (before[1] + 1) >> 1, before[2], before[3]]);
}

#[test]
fn contrast_rows() {
    let module = one_layer(
        "input u8[4] classes 3 batch 4 rows contrast-neutral",
        "%x = input %f = convert %x %l = overlaid stream(1) %p = polarity
         %o = overlay %f, %l, classes(3), on(1), off(-0.5) yield %l, %p, %o",
        "%t = target %h = one_hot %t, classes(3) %s = reduce sum, %h %st = transpose %s %n = reduce sum, %st
         %r = report %n",
        "",
    );
    let mut wrong_labels = std::collections::HashSet::new();
    for key in 0..40 {
        let controls = Controls { key, ..CONTROLS };
        let batch = Batch { inputs: Samples::U8(&[9, 9, 9, 1, 9, 9, 9, 2]), labels: &[2, 0] };
        let verified = verify(&module).unwrap();
        let outcome = step(&verified, &mut State::new(&module), &batch, &controls, Mode::Train).unwrap();
        assert_eq!(outcome.losses, [("a".to_string(), 6.0)]);
        let [labels, polarity, overlaid] = &outcome.outputs[..] else { panic!("three outputs") };
        assert_eq!(polarity.to_f32s(), [1., -1., 0., 1., -1., 0.]);
        let Data::I32(labels) = &labels.data else { panic!("labels are i32") };
        assert_eq!([labels[0], labels[2], labels[3], labels[5]], [2, -1, 0, -1]);
        assert!((0..2).contains(&labels[1]) && (1..3).contains(&labels[4]), "{labels:?}");
        wrong_labels.insert((labels[1], labels[4]));
        let rows = overlaid.to_f32s();
        assert_eq!(rows[..4], [-0.5, -0.5, 1.0, 1.0]);
        assert_eq!(rows[8..12], [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(rows[12..16], [1.0, -0.5, -0.5, 2.0]);
    }
    assert_eq!(wrong_labels.len(), 4, "every wrong label is drawn");
}

#[test]
fn every_label_is_tried() {
    let module = one_layer(
        "input u8[1] classes 3 batch 4 rows every-label",
        "%x = input %f = convert %x %l = overlaid stream(1) %lf = convert %l %y = add %f, %lf",
        "%s = score %y, set",
        "",
    );
    let outcome = run(&module, &mut State::new(&module), Samples::U8(&[10, 20]), &[], Mode::Infer);
    assert_eq!(outcome.scores, Some(vec![10., 11., 12., 20., 21., 22.]));
}

#[test]
fn later_layers_are_summed_in_order() {
    let layers: String = [("a", 5.0), ("b", 1.0), ("c", 1.0e8), ("d", -1.0e8)]
        .map(|(name, error)| {
            let forward = if name == "a" { "%x = input yield %x" } else { "%x: f32[rows, 1] = operand 0 yield %x" };
            format!(
                "layer @{name} hidden {{ forward {{ {forward} }}
                 head {{ %e = constant {error:?} %r: f32[rows, 1] = splat %e %s = mul %r, %x }}
                 look_ahead {{ %p = publish %s %ahead: f32[rows, 1] = ahead %l = control lambda %z = mul %ahead, %l
                 }} update {{ %zt = transpose %z %loss = reduce sum, %zt %report = report %loss }} }}\n"
            )
        })
        .concat();
    let module =
        module(&format!("module @m trainable {{ input f32[1] classes 2 batch 2 rows plain {layers} }}"));
    let mut state = State::new(&module);
    let outcome = run(&module, &mut state, Samples::F32(&[1.0, 2.0]), &[0, 1], Mode::Train);
    // (1 + 1e8) - 1e8 is 0 in f32, where 1 + (1e8 - 1e8) is 1.
    assert_eq!(floats(&outcome, "a", "ahead"), [0.0, 0.0]);
    assert_eq!(floats(&outcome, "b", "ahead"), [0.0, 0.0]);
    assert_eq!(floats(&outcome, "c", "ahead"), [-1.0e8, -2.0e8]);
    assert_eq!(floats(&outcome, "d", "ahead"), [0.0, 0.0]);
    let losses: Vec<f32> = outcome.losses.iter().map(|(_, loss)| *loss).collect();
    assert_eq!(losses, [0.0, 0.0, -0.75e8, 0.0]);
    let alone = run(&module, &mut state, Samples::F32(&[1.0, 2.0]), &[0, 1], Mode::TrainLayer(2));
    assert_eq!(alone.losses, [("c".to_string(), 0.0)]);
}

#[test]
fn reads_see_what_was_there_before_the_step() {
    let module = one_layer(
        "input f32[1] classes 2 batch 1 rows plain param @b: f32[1, 1] bias",
        "%x = input %b = param @b %y = add %x, %b yield %y",
        "",
        "%one = constant 1 %now = param @b %next = add %now, %one %new = assign @b, %next",
    );
    let mut state = State::new(&module);
    for expected in [10.0, 11.0, 12.0] {
        let outcome = run(&module, &mut state, Samples::F32(&[10.0]), &[0], Mode::Train);
        assert_eq!(outcome.outputs, [Tensor::scalar(expected)]);
    }
    let inferred = run(&module, &mut state, Samples::F32(&[10.0]), &[], Mode::Infer);
    assert_eq!(
        (inferred.outputs, state.weights(module.param("b").unwrap())),
        (vec![Tensor::scalar(13.0)], vec![3.0])
    );
}

#[test]
fn calibration_finds_forward_ranges_first() {
    let module = one_layer(
        "input f32[2] classes 2 batch 2 rows plain
         param @in: f32[1, 1] range(0) param @out: f32[1, 1] range(0) param @w: f32[1, 1] bias",
        "%x = input %r = param @in %inv = constant 0.0078125 %s0 = mul %r, %inv %tiny = constant 1e-6
         %s = max %s0, %tiny %q = quantize %x, %s, nearest %qf = convert %q yield %q",
        "%m = reduce abs_max, %x %mt = transpose %m %seen = reduce max, %mt %t = track @in, %seen, decay(0.5)",
        "%n = reduce abs_max, %qf %nt = transpose %n %got = reduce max, %nt %u = track @out, %got, decay(0.5)
         %p = polarity %pt = transpose %p %sum = reduce sum, %pt %pp = constant 1 %new = assign @w, %pp",
    );
    let mut state = State::new(&module);
    let outcome = run(&module, &mut state, Samples::F32(&[64.0, -32.0, 1.0, 0.5]), &[0, 1], Mode::Calibrate);
    let range = |name: &str| state.weights(module.param(name).unwrap());
    assert_eq!(range("in"), [64.0]);
    // With the range found: 64 / 0.5 saturates at 127.
    assert_eq!(outcome.outputs, [Tensor::i8(2, 2, vec![127, -64, 2, 1])]);
    assert_eq!(range("out"), [127.0]);
    assert_eq!(range("w"), [0.0], "nothing is trained");
}

#[test]
fn scores_accumulate_over_layers_and_need_no_labels() {
    let layer = |name: &str, forward: &str, how: &str| {
        format!(
            "layer @{name} hidden {{ forward {{ {forward} yield %x }} head {{
             %t = target %h = one_hot %t, classes(2) %d = sub %x, %h %score = score %x, {how} }} }}"
        )
    };
    let module = module(&format!(
        "module @m trainable {{ input f32[2] classes 2 batch 2 rows plain {} {} }}",
        layer("a", "%x = input", "set"),
        layer("b", "%x: f32[rows, 2] = operand 0", "accumulate")
    ));
    let outcome = run(&module, &mut State::new(&module), Samples::F32(&[1.0, 2.0]), &[], Mode::Infer);
    assert_eq!(outcome.scores, Some(vec![2.0, 4.0]));
}

#[test]
fn groups_split_units_evenly() {
    let module = one_layer(
        "input f32[1] classes 3 batch 1 rows plain param @groups: i8[3, 7] groups",
        "%x = input",
        "",
        "",
    );
    let groups = State::new(&module).read(module.param("groups").unwrap());
    #[rustfmt::skip]
    let expected = vec![
        1, 1, 0, 0, 0, 0, 0,
        0, 0, 1, 1, 0, 0, 0,
        0, 0, 0, 0, 1, 1, 1,
    ];
    assert_eq!(groups, Tensor::i8(3, 7, expected));
}

#[test]
fn what_does_not_fit_is_refused() {
    let module = one_layer("input u8[2] classes 2 batch 2 rows plain", "%x = input", "%t = target", "");
    let verified = verify(&module).unwrap();
    let refused = |inputs: Samples<'_>, labels: &[i32], mode: Mode| {
        let mut state = State::new(&module);
        let outcome = step(&verified, &mut state, &Batch { inputs, labels }, &CONTROLS, mode);
        outcome.expect_err("it does not fit").to_string()
    };
    let bytes = Samples::U8(&[1, 2, 3, 4]);
    assert_eq!(refused(Samples::F32(&[1.0]), &[0], Mode::Train), "the inputs are f32, the module takes u8");
    assert_eq!(
        refused(Samples::U8(&[1, 2, 3]), &[0], Mode::Train),
        "3 input elements are not a whole number of samples of 2"
    );
    assert_eq!(refused(bytes, &[0], Mode::Train), "there are 1 labels for 2 samples");
    assert_eq!(refused(bytes, &[0, 2], Mode::Train), "a label is outside of 0..2");
    assert_eq!(refused(Samples::U8(&[0; 6]), &[0; 3], Mode::Train), "3 samples do not fit a batch of 2");
    assert_eq!(
        refused(bytes, &[0, 1], Mode::TrainLayer(0)),
        "there is no trained layer 0; the module trains 0"
    );
    let other =
        one_layer("input u8[2] classes 2 batch 2 rows plain param @b: f32[1, 1] bias", "%x = input", "", "");
    let batch = Batch { inputs: bytes, labels: &[0, 1] };
    let error =
        step(&verified, &mut State::new(&other), &batch, &CONTROLS, Mode::Train).expect_err("not its state");
    assert_eq!(error.to_string(), "the state belongs to a module with other parameters");
}
