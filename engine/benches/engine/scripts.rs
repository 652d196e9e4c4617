//! The rules as scripts, called once per binding: LuaJIT by mlua, and Rhai.

use mlua::{Function, Lua};
use rhai::{AST, CallFnOptions, Dynamic, Scope};

use crate::Pass;

/// Keeps the bindings in Lua, whose stack holds only a few thousand handles.
const KEEPER: &str = "
local bindings = {}
function add() bindings[#bindings + 1] = new() end
function evaluate_at(place, price, time_ms) return evaluate(bindings[place], price, time_ms) end
";

pub(crate) fn lua(source: &str, count: usize) -> Pass {
    let lua = Lua::new();
    lua.load(source).exec().unwrap();
    lua.load(KEEPER).exec().unwrap();
    let function = |name: &str| lua.globals().get::<Function>(name).unwrap();
    let (add, evaluate) = (function("add"), function("evaluate_at"));
    (0..count).for_each(|_| add.call(()).unwrap());
    Box::new(move |price, time_ms| {
        // Functions live as long as their Lua.
        let _alive = &lua;
        for place in 1..=count {
            let fired: bool = evaluate.call((place, price, time_ms)).unwrap();
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
            let fired = call(Some(binding), "evaluate", vec![price.into(), time_ms.into()]);
            assert!(!fired.as_bool().unwrap());
        }
    })
}
