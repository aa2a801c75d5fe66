//! Parameters: storage, shape and start.

use super::Verifier;
use crate::diagnostics::Location;
use crate::module::{Param, ParamRole, ParamStorage, Phase};
use crate::types::{Dim, Type};

impl Verifier<'_> {
    pub(super) fn params(&mut self) {
        let module = self.module;
        self.unique(module.params.values().map(|param| param.name.as_str()), "params", |name| {
            Location::Param(name.to_string())
        });
        for param in module.params.values() {
            let location = Some(Location::Param(param.name.clone()));
            self.identifier(location.clone(), "param", &param.name);
            let [rows, columns] = param.shape;
            self.elements(
                location.clone(),
                Type::new(param.ty().dtype, Dim::Const(rows), Dim::Const(columns)),
            );
            for message in faults(param, module.phase) {
                self.fail(location.clone(), message);
            }
        }
    }
}

fn faults(param: &Param, phase: Phase) -> Vec<String> {
    let mut faults = Vec::new();
    let role = role_name(param.role);
    if !allows(param.role, param.storage) {
        faults.push(format!("a {role} is not stored as {}", storage_name(param.storage)));
    }
    if phase < Phase::Quantized && param.storage != ParamStorage::F32 {
        let storage = storage_name(param.storage);
        faults.push(format!("stored as {storage}, but in phase `{}` everything is f32", phase.name()));
    }
    if let ParamRole::Range(start) | ParamRole::Head(start) = param.role
        && !(start.is_finite() && start >= 0.0)
    {
        faults.push(format!("a {role} does not start at {start}"));
    }
    if matches!(param.role, ParamRole::Range(_)) && param.shape != [1, 1] {
        faults.push("a range has one element".to_string());
    }
    faults
}

fn allows(role: ParamRole, storage: ParamStorage) -> bool {
    match storage {
        ParamStorage::F32 => true,
        ParamStorage::Fixed16(_) => matches!(role, ParamRole::Weight | ParamRole::Head(_)),
        ParamStorage::I16 => role == ParamRole::Velocity,
        ParamStorage::I8 => role == ParamRole::Groups,
    }
}

fn role_name(role: ParamRole) -> &'static str {
    match role {
        ParamRole::Weight => "weight",
        ParamRole::Bias => "bias",
        ParamRole::Head(_) => "head",
        ParamRole::Groups => "groups matrix",
        ParamRole::Range(_) => "range",
        ParamRole::Velocity => "velocity",
        ParamRole::Constant => "constant",
    }
}

fn storage_name(storage: ParamStorage) -> &'static str {
    match storage {
        ParamStorage::F32 => "f32",
        ParamStorage::I8 => "i8",
        ParamStorage::I16 => "i16",
        ParamStorage::Fixed16(_) => "fixed16",
    }
}
