//! Prints what a recipe becomes.
use ffc_compiler::{lower, pipeline, recipe::RECIPES};
use ffc_ir::verify::verify;
fn main() {
    let arg = std::env::args().nth(1).unwrap_or("0".into()).parse::<usize>().unwrap();
    let mut o = RECIPES[arg].options();
    o.batch = 7;
    let m = ffc_tests::networks::perceptron(&[13, 19, 11, 3], ffc_ir::module::Activation::Relu, 7);
    let (t, i) = pipeline::compile(&m, &o).unwrap();
    println!("{t}");
    let p = lower::lower(&verify(&t).unwrap(), &verify(&i).unwrap()).unwrap();
    println!("{p}");
    println!("{}", ffc_ir::text::summary(&p));
}
