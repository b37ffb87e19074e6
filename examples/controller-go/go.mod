module example.org/controller

go 1.19
