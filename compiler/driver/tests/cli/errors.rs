//! What goes wrong says what, and the way out, and leaves everything as it was.

use std::path::Path;

use ffc_onnx::proto::attribute_proto::AttributeType;
use ffc_onnx::proto::tensor_proto::DataLocation;
use ffc_onnx::proto::{AttributeProto, ModelProto, StringStringEntryProto};
use prost::Message;

use crate::fixture::{CLASSES, Fixture, SIDE, changed, convolutional, examples, mnist};

#[test]
fn wrong_usage_is_status_2() {
    let fixture = Fixture::new();
    for line in [
        "tarin net.onnx",
        "train net.onnx",
        "train net.onnx --data data --no-such-flag",
        "train net.onnx --data data --epochs many",
        "train net.onnx --data data --look-ahead far",
        "train net.onnx --data data --batch-size -1",
        "compile net.onnx -o net.bin --emit punchcards",
        "opt",
    ] {
        let run = fixture.misused(line, &["--help"]);
        assert_eq!(run.out, "", "{line}");
    }
    assert_eq!(fixture.ffc("").status, 2);
}

#[test]
fn a_truncated_model() {
    let fixture = Fixture::new();
    let whole = fixture.read("net.onnx");
    for size in [0, 1, 40, whole.len() / 2, whole.len() - 1] {
        fixture.write("cut.onnx", &whole[..size]);
        for line in [
            "inspect cut.onnx",
            "inspect cut.onnx --json",
            "train cut.onnx --data data -o out.onnx --checkpoint run",
            "eval cut.onnx --data data --scores scores",
            "compile cut.onnx -o cut.ffc",
            "verify cut.onnx",
        ] {
            fixture.refused(line, &[]);
        }
    }
    fixture.refused("train none.onnx --data data", &["`none.onnx` does not exist", "help: "]);
    fixture.write("text.onnx", "not a model\n");
    fixture.refused("train text.onnx --data data", &[]);
}

/// Moves the first weight to another file.
fn external(model: &mut ModelProto, location: &str) {
    let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External.into());
    let entry = StringStringEntryProto { key: Some("location".into()), value: Some(location.into()) };
    tensor.external_data.push(entry);
}

#[test]
fn external_data() {
    let fixture = Fixture::new();
    fixture.write("net.onnx", changed(|model| external(model, "net.onnx.data")));
    let line = "train net.onnx --data data -o out.onnx";
    fixture.refused(
        line,
        &[
            "`fc1.weight`",
            "`net.onnx.data`",
            "does not exist",
            "help: re-export with the `net.onnx.data` file next to the model",
        ],
    );
    fixture.write("net.onnx.data", [0; 100]);
    fixture.refused(line, &["`fc1.weight`", "the file has 100 bytes"]);
    for location in ["../net.onnx.data", "sub/../../x", "/etc/passwd"] {
        fixture.write("net.onnx", changed(|model| external(model, location)));
        fixture.refused(line, &["`fc1.weight`", location]);
    }
}

#[test]
fn unsupported_operators_are_listed_at_once() {
    let fixture = Fixture::new();
    let bytes = changed(|model| {
        model.graph.as_mut().unwrap().node.iter_mut().for_each(|node| match node.op_type() {
            "Relu" => node.op_type = Some("Selu".into()),
            "Gemm" if node.name() == "fc3.dense" || node.output[0] == "scores" => {
                node.op_type = Some("Frobnicate".into());
                node.domain = Some("com.example".into());
            }
            _ => {}
        });
    });
    fixture.write("net.onnx", bytes);
    let texts = ["Selu", "fc1.relu", "fc2.relu", "Frobnicate", "com.example", "scores", "17", "2 "];
    for line in ["train net.onnx --data data -o out.onnx", "inspect net.onnx", "compile net.onnx -o net.ffc"]
    {
        fixture.refused(line, &texts);
    }
    let rows = fixture.refused("inspect net.onnx --json", &texts).last()["unsupported"].clone();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    let selu = rows.as_array().unwrap().iter().find(|row| row["op"] == "Selu").unwrap();
    assert_eq!((&selu["opset"], &selu["count"], &selu["domain"]), (&17.into(), &2.into(), &"ai.onnx".into()));
    assert_eq!(selu["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn an_unsupported_convolution() {
    let fixture = Fixture::new();
    let mut model = ModelProto::decode(convolutional(SIDE, 4, 2, CLASSES).as_slice()).unwrap();
    let graph = model.graph.as_mut().unwrap();
    let mut convolutions = graph.node.iter_mut().filter(|node| node.op_type() == "Conv");
    let mode = AttributeProto {
        name: Some("auto_pad".into()),
        s: Some(b"SOMEHOW".to_vec()),
        r#type: Some(AttributeType::String as i32),
        ..AttributeProto::default()
    };
    convolutions.next().unwrap().attribute.push(mode);
    convolutions.next().unwrap().op_type = Some("ConvTranspose".into());
    fixture.write("net.onnx", model.encode_to_vec());
    // Both at once, each with its name and the reason.
    let texts = ["attribute `auto_pad` is `SOMEHOW`", "d1", "ConvTranspose", "d2"];
    for line in
        ["train net.onnx --data data -o out.onnx --checkpoint run", "inspect net.onnx", "bench net.onnx"]
    {
        fixture.refused(line, &texts);
    }
}

#[test]
fn data_that_does_not_fit() {
    let fixture = Fixture::new();
    fixture.write_data("more", SIDE, CLASSES + 1);
    fixture.write_data("larger", SIDE + 1, CLASSES);
    for verb in ["train net.onnx -o out.onnx", "eval net.onnx"] {
        fixture.refused(&format!("{verb} --data more"), &["label 4", "4 classes", "help: "]);
        fixture.refused(&format!("{verb} --data larger"), &["81", "`pixels`", "64", "help: "]);
        fixture.refused(&format!("{verb} --data nothing"), &["'nothing' does not exist", "help: accepted: "]);
    }
    fixture.refused("compile net.onnx -o net.ffc --data larger", &["81"]);
}

#[test]
fn truncated_data() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("digits")).unwrap();
    let names = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"];
    for name in names {
        let name = format!("{name}-ubyte.gz");
        let mut bytes = std::fs::read(mnist().join(&name)).unwrap();
        if name.starts_with("t10k-images") {
            bytes.truncate(bytes.len() / 2);
        }
        fixture.write(&format!("digits/{name}"), bytes);
    }
    fixture.refused("train net.onnx --data digits -o out.onnx", &["t10k-images-idx3-ubyte.gz", "help: "]);
    std::fs::remove_file(fixture.path("digits/t10k-images-idx3-ubyte.gz")).unwrap();
    fixture.refused("train net.onnx --data digits", &["'digits' lacks", "t10k-images", "help: "]);
    let images = fixture.read("data/train-images-idx3-ubyte");
    fixture.write("data/train-images-idx3-ubyte", &images[..images.len() - 1]);
    fixture.refused("train net.onnx --data data", &["train-images-idx3-ubyte", "truncated", "help: "]);
}

#[test]
fn outputs_are_checked_before_the_work() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("folder")).unwrap();
    for (output, text) in [("missing/out", "`missing/out`"), ("folder", "it is a folder")] {
        for line in [
            format!("train net.onnx --data data --epochs 100000 -o {output}"),
            format!("eval net.onnx --data data --scores {output}"),
            format!("compile net.onnx -o {output}"),
            format!("export net.onnx -o {output}"),
        ] {
            let run = fixture.refused(&line, &["cannot write", text, "help: "]);
            assert!(!run.err.contains("epoch"), "{}", run.err);
        }
    }
    // A file where the checkpoint's folder should be.
    fixture.refused("train net.onnx --data data --epochs 100000 --checkpoint net.onnx", &["`net.onnx`"]);
}

#[test]
fn a_damaged_checkpoint() {
    let fixture = Fixture::new();
    fixture.done("train net.onnx --data data --epochs 1 --checkpoint run");
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage, &str); 6] = [
        ("description.json", |_| b"{\"version\": 1,".to_vec(), "is damaged"),
        ("description.json", |bytes| replaced(bytes, "\"version\": 1", "\"version\": 9"), "version 9"),
        ("network.ffir", |bytes| replaced(bytes, "dot ", "dog "), "is damaged"),
        ("network.ffir", |bytes| replaced(bytes, "[40, 64]", "[41, 64]"), "is damaged"),
        ("weights.safetensors", |bytes| bytes[..bytes.len() / 2].to_vec(), "is not a checkpoint"),
        ("weights.safetensors", |_| Vec::new(), "is not a checkpoint"),
    ];
    for (file, damage, text) in damages {
        let name = format!("run/{file}");
        let good = fixture.read(&name);
        fixture.write(&name, damage(good.clone()));
        for line in [
            "eval run --data data",
            "export run -o out.onnx",
            "train run --data data --resume --epochs 3",
            "train run --data data --epochs 3 -o out.onnx",
        ] {
            fixture.refused(line, &[file, text]);
        }
        std::fs::remove_file(fixture.path(&name)).unwrap();
        fixture.refused("eval run --data data", &[file]);
        fixture.write(&name, good);
    }
    fixture.done("eval run --data data");
    std::fs::create_dir(fixture.path("empty")).unwrap();
    fixture.refused("eval empty --data data", &["description.json", "help: a checkpoint is a folder with"]);
}

fn replaced(bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains(from), "{from}");
    text.replace(from, to).into_bytes()
}

#[test]
fn a_damaged_artifact() {
    let fixture = Fixture::new();
    fixture.done("compile net.onnx -o net.ffc --data data");
    let whole = fixture.read("net.ffc");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let broken = [
        Vec::new(),
        b"not an artifact".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        flipped(0),
        flipped(9),
        flipped(whole.len() / 2),
        flipped(whole.len() - 20),
    ];
    for bytes in broken {
        fixture.write("net.ffc", bytes);
        for line in [
            "train net.ffc --data data -o out.onnx",
            "eval net.ffc --data data",
            "verify net.ffc",
            "export net.ffc -o out.onnx",
        ] {
            fixture.refused(line, &["`net.ffc`"]);
        }
    }
}

#[test]
fn names_that_nothing_has() {
    let fixture = Fixture::new();
    let help = "help: one of projection, class-group, ff-int8";
    fixture.misused("train net.onnx --data data --recipe magic", &["unknown recipe `magic`", help]);
    fixture.misused("inspect net.onnx --recipe magic", &["unknown recipe `magic`", help]);
    let help = "help: `ffc targets` lists";
    fixture.misused("compile net.onnx -o net.ffc --target pdp11", &["`pdp11`", help]);
    fixture.misused("inspect net.onnx --target pdp11", &["`pdp11`", help]);
    fixture.misused("train net.onnx --data data --device abacus", &["`abacus`", "help: `ffc devices`"]);
    fixture.misused("verify net.onnx --device abacus", &["`abacus`", "help: `ffc devices`"]);
    fixture.done("train net.onnx --data data --epochs 1 --checkpoint run");
    fixture.write("net.ffir", fixture.read("run/network.ffir"));
    fixture.done("opt net.ffir");
    for flag in ["--passes", "--print-after"] {
        fixture.misused(&format!("opt net.ffir {flag} magic"), &["`magic`", "help: `ffc opt --list`"]);
    }
    fixture.write("bad.ffir", "module @n imported {\n  input f33[4]\n");
    fixture.refused("opt bad.ffir", &["`bad.ffir`", "f33"]);
    fixture.refused("opt none.ffir", &["`none.ffir`"]);
}

#[test]
fn numbers_that_make_no_sense() {
    let fixture = Fixture::new();
    for (flag, text) in [
        ("--batch-size 0", "`--batch-size 0`"),
        ("--batch-size 100000", "`--batch-size`"),
        ("--epochs 0", "`--epochs 0`"),
        ("--learning-rate -1", "`--learning-rate -1`"),
        ("--learning-rate 0", "`--learning-rate 0`"),
        ("--learning-rate NaN", "`--learning-rate NaN`"),
        ("--learning-rate inf", "`--learning-rate inf`"),
        ("--momentum 2", "`--momentum 2`"),
        ("--momentum 1", "`--momentum 1`"),
        ("--momentum -0.5", "`--momentum -0.5`"),
        ("--momentum NaN", "`--momentum NaN`"),
        ("--final-rate 1.5", "`--final-rate 1.5`"),
        ("--classifier-rate 0", "`--classifier-rate 0`"),
        ("--temperature -3", "`--temperature -3`"),
        ("--threshold NaN", "`--threshold NaN`"),
        ("--lambda-step -1", "`--lambda-step -1`"),
        ("--input-scale 0", "`--input-scale 0`"),
        ("--input-std 1,0,1", "`--input-std 0`"),
        ("--input-mean 0,NaN", "`--input-mean NaN`"),
    ] {
        fixture.misused(&format!("train net.onnx --data data -o out.onnx {flag}"), &[text]);
        fixture.misused(&format!("compile net.onnx -o out.ffc {flag}"), &[text]);
    }
    fixture.misused("eval net.onnx --data data --batch-size 0", &["`--batch-size 0`"]);
    fixture.refused("train net.onnx --data data --input-mean 1,2,3", &["mean", "3 numbers"]);
    fixture.refused("train net.onnx --data data --limit-train 0", &["train split", "help: "]);
}

#[test]
fn configuration_files() {
    let fixture = Fixture::new();
    let line = "train net.onnx --data data --config run.toml";
    fixture.refused(line, &["`run.toml`"]);
    for (text, named) in [
        ("learning_rate = 0.4\n", "learning_rate"),
        ("speed = 3\n", "speed"),
        ("epochs = \"many\"\n", "run.toml"),
        ("epochs = [\n", "run.toml"),
        ("look-ahead = \"far\"\n", "far"),
    ] {
        fixture.write("run.toml", text);
        fixture.refused(line, &[named, "help: options are the flags of `ffc train` without the dashes"]);
    }
    fixture.write("run.toml", [0xff, 0xfe]);
    fixture.refused(line, &["`run.toml`", "UTF-8"]);
    fixture.write("run.toml", "momentum = 2\n");
    fixture.misused(line, &["`--momentum 2`"]);
}

#[test]
fn resuming_what_is_not_there() {
    let fixture = Fixture::new();
    let texts = ["`--resume` needs the checkpoint", "help: add `--checkpoint DIR`"];
    fixture.misused("train net.onnx --data data --resume", &texts);
    let texts = ["`run` holds no checkpoint", "help: leave out `--resume`"];
    fixture.refused("train net.onnx --data data --checkpoint run --resume", &texts);
    fixture.done("train net.onnx --data data --epochs 1 --checkpoint run");
    let texts = ["`run` already holds a checkpoint", "help: add `--resume`"];
    fixture.refused("train net.onnx --data data --epochs 1 --checkpoint run", &texts);
    let texts = ["`--seed 1`, not 2", "help: "];
    fixture.misused("train net.onnx --data data --epochs 2 --checkpoint run --resume --seed 2", &texts);
    fixture.write("other.onnx", crate::fixture::network(10, 3));
    fixture.refused("export net.onnx -o out.onnx", &["`net.onnx` is no checkpoint", "help: "]);
}

#[test]
fn options_that_contradict_each_other() {
    let fixture = Fixture::new();
    let texts = ["checkpoints hold INT8 training state", "help: leave out `--checkpoint`"];
    fixture.misused("train net.onnx --data data --precision float --checkpoint run", &texts);
    fixture.refused("train net.onnx --data data --predict labels", &["recipe `ff-int8`"]);
    fixture.refused("train net.onnx --data data --recipe ff-int8 --predict heads", &["`--predict labels`"]);
    fixture.refused("compile net.onnx -o out.ffc --precision float", &["single precision", "help: "]);
    fixture.refused("verify net.onnx --precision float", &["single precision"]);
    fixture.done("compile net.onnx -o net.ffc --data data");
    for flag in ["--batch-size 7", "--momentum 0.5", "--predict heads", "--precision float"] {
        let name = flag.split(' ').next().unwrap();
        let text = format!("`{name}` is compiled into the artifact");
        let texts = [text.as_str(), "help: compile the network again"];
        fixture.misused(&format!("train net.ffc --data data {flag}"), &texts);
    }
}

#[test]
fn limits_and_divergence() {
    let fixture = Fixture::new();
    let texts = ["`--memory-limit 1000`", "help: a smaller `--batch-size`"];
    fixture.refused("train net.onnx --data data -o out.onnx --memory-limit 1000 --checkpoint run", &texts);
    fixture.done("train net.onnx --data data --epochs 1 --memory-limit 100000000");
    for precision in ["int8", "float"] {
        let line = format!(
            "train net.onnx --data data -o out.onnx --precision {precision} --learning-rate 1e38 --warmup-steps 0"
        );
        let run = fixture.refused(&line, &["no longer a number", "help: use a smaller `--learning-rate`"]);
        assert!(!Path::new(&fixture.path("out.onnx")).exists(), "{}", run.err);
    }
}

#[test]
fn an_image_network_on_small_data() {
    let fixture = Fixture::new();
    let model = examples().join("mnist_mlp.onnx");
    let line = format!("train {} --data data", model.display());
    fixture.refused(&line, &["64 numbers (1x8x8)", "784", "help: "]);
}
