// Tasks. `lovage build` makes a component of this package.
package main

import (
	"math"

	"task.local/my_task/lovage"
)

func init() {
	lovage.Task("my_task", "Doubles a number.", double)
}

func double(job *lovage.Job, number float64) (float64, error) {
	twice := 2 * number
	if math.IsInf(twice, 0) {
		return 0, lovage.Reject("%v is too large to be doubled", number)
	}
	job.Progress(100, "doubled")
	return twice, nil
}

func main() {} // never called: the host calls tasks
