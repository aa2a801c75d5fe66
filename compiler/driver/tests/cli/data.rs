//! Data in other formats, from a file to a trained network.

use crate::fixture::{CLASSES, Fixture, Numbers, SIDE, digits, network};

/// A table whose classes are told apart by the signs of two sums of features.
fn table(samples: usize, seed: u64) -> Vec<(Vec<f32>, usize)> {
    let mut numbers = Numbers(seed);
    let row = |_| {
        let row: Vec<f32> = (0..6).map(|feature| numbers.number() * 10.0f32.powi(feature - 2)).collect();
        let class =
            usize::from(row[0] * 100.0 + row[1] * 10.0 > 0.0) + 2 * usize::from(row[2] + row[3] / 10.0 > 0.0);
        (row, class)
    };
    (0..samples).map(row).collect()
}

#[test]
fn csv() {
    let fixture = Fixture::new();
    fixture.write("net.onnx", network(6, 4));
    let names = ["ash", "birch", "cedar", "date"];
    let mut text = "a,b,c,d,e,f,label\n".to_string();
    for (row, class) in table(600, 4) {
        row.iter().for_each(|number| text += &format!("{number},"));
        text += &format!("{}\n", names[class]);
    }
    fixture.write("table.csv", text);
    let flags = "--data table.csv --batch-size 16";
    let run =
        fixture.done(&format!("train net.onnx {flags} --epochs 20 --checkpoint run -o out.onnx --json"));
    assert!(run.last()["test_accuracy"].as_f64().unwrap() > 0.85, "{}", run.out);
    let description = String::from_utf8(fixture.read("run/description.json")).unwrap();
    assert!(names.iter().all(|name| description.contains(name)), "{description}");
    let eval = |model: &str, precision: &str| {
        let line = format!("eval {model} --data table.csv --precision {precision} --json");
        fixture.done(&line).last()["test_accuracy"].as_f64().unwrap()
    };
    assert_eq!(eval("run", "int8"), run.last()["test_accuracy"].as_f64().unwrap());
    assert_eq!(eval("run", "float"), eval("out.onnx", "float"));
    fixture.done(&format!("compile net.onnx -o net.ffc {flags}"));
    let line = "train net.ffc --data table.csv --epochs 20 --json";
    assert_eq!(fixture.done(line).last()["weights_hash"], run.last()["weights_hash"]);
    // Floats where the network was trained on bytes.
    fixture.write("net.onnx", network(SIDE * SIDE, CLASSES));
    fixture.refused("train net.onnx --data table.csv", &["6 numbers", "64"]);
}

#[test]
fn npz() {
    let fixture = Fixture::new();
    let arrays = |bytes: bool| {
        let mut members = Vec::new();
        for (split, samples, seed) in [("train", 300, 1), ("test", 100, 2)] {
            let (images, labels) = digits(samples, SIDE, CLASSES, seed);
            let shape = format!("({samples}, {SIDE}, {SIDE})");
            let x = if bytes {
                npy("|u1", &shape, &images)
            } else {
                let floats: Vec<u8> =
                    images.iter().flat_map(|&pixel| (f32::from(pixel) / 255.0).to_le_bytes()).collect();
                npy("<f4", &shape, &floats)
            };
            let labels: Vec<u8> = labels.iter().flat_map(|&label| i64::from(label).to_le_bytes()).collect();
            members.push((format!("x_{split}.npy"), x));
            members.push((format!("y_{split}.npy"), npy("<i8", &format!("({samples},)"), &labels)));
        }
        zip(&members)
    };
    fixture.write("bytes.npz", arrays(true));
    fixture.write("floats.npz", arrays(false));
    let hash = |data: &str| {
        let run =
            fixture.done(&format!("train net.onnx --data {data} --epochs 5 --batch-size 16 --json")).last();
        assert!(run["test_accuracy"].as_f64().unwrap() > 0.6, "{run}");
        run["weights_hash"].clone()
    };
    // The same images as the folder's.
    assert_eq!(hash("bytes.npz"), hash("data"));
    hash("floats.npz");
    fixture.done("train net.onnx --data bytes.npz --epochs 1 --checkpoint run");
    fixture
        .refused("eval run --data floats.npz", &["the data is f32, the network was trained on u8", "help: "]);
    let whole = fixture.read("bytes.npz");
    fixture.write("cut.npz", &whole[..whole.len() / 2]);
    fixture.refused("train net.onnx --data cut.npz", &["cut.npz", "help: "]);
}

/// An array as NumPy writes it.
fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// An archive without compression.
fn zip(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let offset = bytes.len() as u32;
        // Version, flags, method, time, date.
        let mut fields = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        for number in [crc32(data), data.len() as u32, data.len() as u32] {
            fields.extend(number.to_le_bytes());
        }
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(name.as_bytes());
        bytes.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&fields);
        // No comment, first disk, attributes.
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend((members.len() as u16).to_le_bytes());
    bytes.extend((members.len() as u16).to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}
