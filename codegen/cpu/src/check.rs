//! What this backend does not do, and what no kernel should ask for: found here, so that emitting cannot fail.

use ffc_ir::arena::Handle;
use ffc_ir::kernel::{At, Buffer, Contraction, Expr, Extent, Geometry, Kernel, Level, Over, Program, Stage};
use ffc_ir::types::DType;

use crate::plan;

pub(crate) fn check(program: &Program, kernel: &Kernel) -> Result<(), String> {
    if let Some(contraction) = &kernel.contraction {
        for (operand, columns) in whole_rows(contraction, kernel.columns) {
            let operand = &program.buffers[operand];
            if operand.shape[1] != columns {
                return Err(format!(
                    "contracts {columns} of the {} columns of `{}`: only whole rows are padded",
                    operand.shape[1], operand.name
                ));
            }
        }
        let operands = [contraction.lhs, contraction.rhs].map(|operand| &program.buffers[operand]);
        if let Some(operand) = operands.into_iter().find(|operand| operand.dtype != DType::I8) {
            return Err(format!(
                "contracts `{}`, which is {:?}: machine code contracts i8 only; float programs run on the reference \
                 executor",
                operand.name, operand.dtype
            ));
        }
    }
    kernel.stages.iter().enumerate().try_for_each(|(index, stage)| check_stage(kernel, index, stage))
}

/// The operands that a contraction reads by whole rows, and how many columns these should have.
fn whole_rows(contraction: &Contraction, columns: Extent) -> Vec<(Handle<Buffer>, Extent)> {
    let Contraction { lhs, rhs, depth, geometry, .. } = *contraction;
    let channels = |extent: Extent, taps: usize| match extent {
        Extent::Rows(n) => Extent::Rows(n / taps),
        Extent::Const(n) => Extent::Const(n / taps),
    };
    match geometry {
        Geometry::Dense => vec![(lhs, depth), (rhs, depth)],
        Geometry::Convolution(window) => vec![(lhs, channels(depth, window.taps())), (rhs, depth)],
        Geometry::ConvolutionGrad(window) => vec![(lhs, depth), (rhs, channels(columns, window.taps()))],
        // By elements.
        Geometry::Depthwise(_) | Geometry::DepthwiseGrad(_) => Vec::new(),
    }
}

fn check_stage(kernel: &Kernel, index: usize, stage: &Stage) -> Result<(), String> {
    let stored_well = |at: At| match stage.over {
        Over::Elements if kernel.columns == Extent::Const(1) => true,
        Over::Elements => {
            matches!(at, At::Element | At::Transposed | At::Columns(_) | At::Column | At::Flat(_))
        }
        Over::Rows => matches!(at, At::Row | At::Scalar),
    };
    if let Some(store) = stage.stores.iter().find(|store| !stored_well(store.at)) {
        return Err(format!("stage {index} over {:?} stores at {:?}", stage.over, store.at));
    }
    if stage.over == Over::Rows && !stage.reduces.is_empty() {
        return Err(format!("stage {index} over rows reduces"));
    }
    if stage.when.is_some_and(|when| kernel.levels()[when.index()] == Level::Element) {
        return Err(format!("stage {index} runs for some columns only"));
    }
    let accumulator = |&handle: &_| kernel.exprs[handle] == Expr::Accumulator;
    let accumulates = plan::needed(kernel, plan::roots(stage)).iter().any(accumulator);
    if accumulates && (index > 0 || kernel.contraction.is_none() || stage.over == Over::Rows) {
        return Err(format!("stage {index} uses an accumulator, which there is none of"));
    }
    Ok(())
}
