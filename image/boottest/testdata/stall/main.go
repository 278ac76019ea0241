// Command stall is a process 1 for a test: it starts the image's watchdog as
// the supervisor does, and then gets nowhere.
package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/enclave/pid1"
	"cocoon/internal/kmod"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("stall:", err)
	}
	time.Sleep(time.Hour) // a supervisor that waits for what does not come
}

func run() error {
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return err
	}
	if err := kmod.Load("/modules", kmod.Base); err != nil {
		return err
	}
	if _, err := pid1.OpenWatchdog(pid1.WatchdogPath, 3*time.Second); err != nil {
		return err
	}
	fmt.Println("stall: the watchdog runs")
	return nil
}
