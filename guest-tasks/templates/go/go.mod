module task.local/my_task

go 1.24
