// Command stall is a process 1 for a test: it starts the image's watchdog as
// the supervisor does, and then gets nowhere.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/enclave/pid1"
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
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		file, args, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "?"), " ")
		if file != "watchdog.ko" && file != "softdog.ko" {
			continue
		}
		f, err := os.Open("/modules/" + file)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), args, 0); err != nil {
			return fmt.Errorf("%s %s: %w", file, args, err)
		}
	}
	if _, err := pid1.OpenWatchdog(pid1.WatchdogPath, 3*time.Second); err != nil {
		return err
	}
	fmt.Println("stall: the watchdog runs")
	return nil
}
