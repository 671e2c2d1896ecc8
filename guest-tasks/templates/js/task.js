// Tasks. `lovage build` makes a component of this module.

import { Reject, tasks } from "./lovage.js";

export const handler = tasks({
  my_task: {
    description: "Doubles a number.",
    run(number, ctx) {
      if (typeof number !== "number") {
        throw new Reject(`a number is needed, not ${typeof number}`);
      }
      const twice = 2 * number;
      if (!Number.isFinite(twice)) {
        throw new Reject(`${number} is too large to be doubled`);
      }
      ctx.progress(100, "doubled");
      return twice;
    },
  },
});
