// Gives exports the names of the contract, which are no names in AssemblyScript.

const handler = "lovage:task/handler@1.1.0#";

export function afterCompile(module) {
  for (const name of ["describe", "run"]) {
    module.removeExport(name);
    module.addFunctionExport(`lovage/${name}`, handler + name);
  }
}
