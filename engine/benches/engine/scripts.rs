//! The rules as scripts, called once for each binding: LuaJIT by mlua, and Rhai.

use mlua::{Function, Lua, Table};
use rhai::{AST, CallFnOptions, Dynamic, Scope};

use crate::Pass;

pub(crate) fn lua(source: &str, count: usize) -> Pass {
    let lua = Lua::new();
    lua.load(source).exec().unwrap();
    let new: Function = lua.globals().get("new").unwrap();
    let judge: Function = lua.globals().get("judge").unwrap();
    let bindings: Vec<Table> = (0..count).map(|_| new.call(()).unwrap()).collect();
    Box::new(move |price, time_ms| {
        // Functions and tables live as long as their Lua.
        let _alive = &lua;
        for binding in &bindings {
            let fired: bool = judge.call((binding, price, time_ms)).unwrap();
            assert!(!fired);
        }
    })
}

pub(crate) fn rhai(source: &str, count: usize) -> Pass {
    let engine = rhai::Engine::new();
    let ast: AST = engine.compile(source).unwrap();
    let call = move |this: Option<&mut Dynamic>, name: &str, arguments: Vec<Dynamic>| -> Dynamic {
        let options = CallFnOptions::new().eval_ast(false);
        let options = match this {
            Some(this) => options.bind_this_ptr(this),
            None => options,
        };
        engine.call_fn_with_options(options, &mut Scope::new(), &ast, name, arguments).unwrap()
    };
    let mut bindings: Vec<Dynamic> = (0..count).map(|_| call(None, "create", Vec::new())).collect();
    Box::new(move |price, time_ms| {
        for binding in &mut bindings {
            let fired = call(Some(binding), "judge", vec![price.into(), time_ms.into()]);
            assert!(!fired.as_bool().unwrap());
        }
    })
}
