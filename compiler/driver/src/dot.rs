//! The kernels of a program and what flows between them, for Graphviz.

use std::collections::HashMap;

use ffc_ir::Handle;
use ffc_ir::kernel::{Buffer, BufferClass, Kernel, Program, Purpose};
use petgraph::dot::Dot;
use petgraph::graph::DiGraph;

/// The graph of a training step: kernels in their order, edges named after the buffers.
pub fn graph(program: &Program) -> String {
    let mut graph: DiGraph<String, String> = DiGraph::new();
    let train = program.schedules.iter().find(|schedule| schedule.purpose == Purpose::Train);
    let kernels: &[Handle<Kernel>] = train.map_or(&[], |schedule| &schedule.kernels);
    let mut writers: HashMap<Handle<Buffer>, petgraph::graph::NodeIndex> = HashMap::new();
    for &handle in kernels {
        let kernel = &program.kernels[handle];
        let node = graph.add_node(format!("{} [{}, {}]", kernel.name, kernel.rows, kernel.columns));
        for buffer in kernel.reads() {
            let arena =
                matches!(program.buffers[buffer].class, BufferClass::Arena | BufferClass::Accumulator);
            if let (true, Some(&writer)) = (arena, writers.get(&buffer))
                && writer != node
            {
                graph.add_edge(writer, node, program.buffers[buffer].name.clone());
            }
        }
        writers.extend(kernel.writes().into_iter().map(|buffer| (buffer, node)));
    }
    Dot::new(&graph).to_string()
}
