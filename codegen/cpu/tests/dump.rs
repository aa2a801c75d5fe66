mod harness;
use ffc_ir::kernel::*;
use ffc_ir::numerics::Arith;
use ffc_ir::types::DType;
use harness::*;
#[test]
#[ignore = "prints"]
fn dump() {
    let [rows, columns, depth] = [128, 1000, 784].map(Extent::Const);
    let mut case = Case::new(1, rows, columns);
    case.contract(depth, None);
    let bias = case.param(DType::F32, [columns, Extent::Const(1)]);
    let out = case.arena(DType::F32, [rows, columns]);
    let m = &mut case.builder;
    let sum = m.expr(Expr::Accumulator);
    let sum = m.to_f32(sum);
    let bias = m.load(bias, At::Column);
    let value = m.fadd(sum, bias);
    case.stage(Over::Elements).stores.push(Store { buffer: out, at: At::Element, value });
    let name = std::env::var("TARGET").unwrap_or("native".into());
    let target = targets().into_iter().find(|t| t.name == name).unwrap();
    println!("{}", ffc_cpu::CpuBackend::new(target).unwrap().asm(&case.program()).unwrap());
}
