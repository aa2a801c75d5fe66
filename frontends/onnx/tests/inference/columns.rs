//! Channels side by side, taken apart, shuffled, and convolved in groups.

use super::{Form, Sketch, image, of};
use crate::common::{int, ints};

/// Reshape, Transpose, Reshape: channels of `groups` take turns.
fn shuffle(s: &mut Sketch, x: &str, groups: i64, [channels, height, width]: [i64; 3]) -> String {
    let each = channels / groups;
    let apart = reshape(s, x, &[-1, groups, each, height, width]);
    let turned = s.op("Transpose", &[&apart], vec![ints("perm", &[0, 2, 1, 3, 4])]);
    reshape(s, &turned, &[-1, channels, height, width])
}

fn reshape(s: &mut Sketch, x: &str, dims: &[i64]) -> String {
    let dims = s.list(dims);
    s.op("Reshape", &[x, &dims], vec![])
}

/// Equal parts along an axis.
fn split(s: &mut Sketch, x: &str, parts: usize, axis: i64) -> Vec<String> {
    let first = s.op("Split", &[x], vec![int("axis", axis)]);
    let outputs: Vec<String> = (0..parts).map(|part| format!("{first}.{part}")).collect();
    s.net.graph().node.last_mut().unwrap().output = outputs.clone();
    outputs
}

fn concat(s: &mut Sketch, inputs: &[&str]) -> String {
    s.op("Concat", inputs, vec![int("axis", 1)])
}

fn slice(s: &mut Sketch, x: &str, from: i64, to: i64) -> String {
    let [from, to, axes] = [from, to, 1].map(|number| s.list(&[number]));
    s.op("Slice", &[x, &from, &to, &axes], vec![])
}

fn relu(s: &mut Sketch, x: &str) -> String {
    s.op("Relu", &[x], vec![])
}

pub(super) fn forms() -> Vec<Form> {
    let grouped = |weight: &'static [i64], attributes: &'static str, features: i64| {
        of(13, &["6", "5", "4"], move |s| (s.conv("x", weight, attributes), features))
    };
    vec![
        (
            "side by side",
            image(|s| {
                let a = s.conv("x", &[4, 3, 3, 3], "pads=1,1,1,1");
                let b = s.conv("x", &[2, 3, 1, 1], "");
                let b = relu(s, &b);
                let c =
                    s.op("MaxPool", &[&b], vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])]);
                (concat(s, &[&a, &b, &c]), 8 * 70)
            }),
            "pixels window dot add dot add relu pool concat concat",
        ),
        (
            "an activation of all",
            image(|s| {
                let a = s.bare_conv("x", &[4, 3, 3, 3], "pads=1,1,1,1");
                let b = s.conv("x", &[2, 3, 1, 1], "");
                let x = concat(s, &[&a, &b]);
                let x = s.normalization(&x, 6);
                (relu(s, &x), 6 * 70)
            }),
            "pixels window dot add relu dot add relu concat",
        ),
        (
            "growing",
            image(|s| {
                let x = s.conv("x", &[4, 3, 3, 3], "pads=1,1,1,1");
                let a = s.normalization(&x, 4);
                let a = relu(s, &a);
                let a = s.conv(&a, &[2, 4, 3, 3], "pads=1,1,1,1");
                let x = concat(s, &[&x, &a]);
                let b = s.normalization(&x, 6);
                let b = relu(s, &b);
                let b = s.conv(&b, &[3, 6, 1, 1], "");
                (concat(s, &[&x, &b]), 9 * 70)
            }),
            "",
        ),
        (
            "vectors",
            of(13, &["6"], |s| {
                let (w, v) = (s.constant(&[6, 5]), s.constant(&[6, 3]));
                let (a, b) = (s.op("MatMul", &["x", &w], vec![]), s.op("MatMul", &["x", &v], vec![]));
                let b = s.op("Tanh", &[&b], vec![]);
                (concat(s, &[&a, &b]), 8)
            }),
            "dot dot tanh concat",
        ),
        (
            "halves",
            image(|s| {
                let x = s.conv("x", &[8, 3, 3, 3], "pads=1,1,1,1");
                let x = relu(s, &x);
                let (left, right) = (slice(s, &x, 0, 3), slice(s, &x, -5, 99));
                let right = s.conv(&right, &[4, 5, 3, 3], "pads=1,1,1,1");
                (concat(s, &[&left, &right]), 7 * 70)
            }),
            "pixels window dot add relu slice window dot add slice concat",
        ),
        (
            "a gate",
            image(|s| {
                let x = s.conv("x", &[8, 3, 3, 3], "");
                let parts = split(s, &x, 2, 1);
                let gate = s.op("Sigmoid", &[&parts[1]], vec![]);
                (s.op("Mul", &[&parts[0], &gate], vec![]), 4 * 40)
            }),
            "pixels window dot add slice sigmoid slice mul",
        ),
        ("groups", grouped(&[4, 3, 3, 2], "group=2 pads=1,1,1,0", 4 * 5 * 4), ""),
        ("groups in strides", grouped(&[6, 2, 3, 2], "group=3 strides=2,1 dilations=1,2", 6 * 2 * 2), ""),
        ("pointwise groups", grouped(&[9, 2, 1, 1], "group=3", 9 * 20), ""),
        ("two filters for each channel", grouped(&[12, 1, 3, 3], "group=6", 12 * 6), ""),
        (
            "groups, normalised",
            of(13, &["6", "5", "4"], |s| {
                let x = s.bare_conv("x", &[4, 3, 3, 3], "group=2");
                let x = s.normalization(&x, 4);
                (relu(s, &x), 4 * 6)
            }),
            "",
        ),
        (
            "shuffled groups",
            image(|s| {
                let x = s.conv("x", &[12, 3, 3, 3], "");
                let x = shuffle(s, &x, 3, [12, 5, 8]);
                let x = s.conv(&x, &[12, 1, 3, 3], "group=12 pads=1,1,1,1");
                let x = relu(s, &x);
                let x = s.conv(&x, &[6, 4, 1, 1], "group=3");
                (shuffle(s, &x, 2, [6, 5, 8]), 6 * 40)
            }),
            "",
        ),
        (
            "shuffled halves",
            image(|s| {
                let x = s.conv("x", &[8, 3, 3, 3], "");
                let mut x = relu(s, &x);
                for _ in 0..2 {
                    let parts = split(s, &x, 2, 1);
                    let right = s.conv(&parts[1], &[4, 4, 1, 1], "");
                    let right = relu(s, &right);
                    x = concat(s, &[&parts[0], &right]);
                    x = shuffle(s, &x, 2, [8, 5, 8]);
                }
                (s.op("GlobalAveragePool", &[&x], vec![]), 8)
            }),
            "",
        ),
        (
            "shuffled and not",
            image(|s| {
                let x = s.conv("x", &[6, 3, 3, 3], "");
                let x = relu(s, &x);
                let y = shuffle(s, &x, 2, [6, 5, 8]);
                let y = s.normalization(&y, 6);
                (s.op("Add", &[&x, &y], vec![]), 6 * 40)
            }),
            "",
        ),
        (
            "channels last",
            of(13, &["7", "10", "3"], |s| {
                let x = s.op("Transpose", &["x"], vec![ints("perm", &[0, 3, 1, 2])]);
                let x = s.conv(&x, &[6, 3, 3, 3], "");
                let x = s.op("Transpose", &[&x], vec![ints("perm", &[0, 2, 3, 1])]);
                let parts = split(s, &x, 2, 3);
                let left = relu(s, &parts[0]);
                let x = s.op("Concat", &[&left, &parts[1]], vec![int("axis", -1)]);
                (s.op("Transpose", &[&x], vec![ints("perm", &[0, 3, 1, 2])]), 6 * 40)
            }),
            "",
        ),
    ]
}
