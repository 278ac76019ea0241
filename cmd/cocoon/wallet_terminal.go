package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"cocoon/internal/fault"
)

// typePassphrase asks for a passphrase at the terminal, a new one twice.
func typePassphrase(fresh bool) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", fault.New(fault.ExitInternal, "ton.wallet.no_passphrase", "name a file with --passphrase-file", "asking for the passphrase: there is no terminal")
	}
	text, err := typed(tty, "passphrase of the wallet: ")
	if err == nil && fresh {
		var again string
		if again, err = typed(tty, "the same again: "); err == nil && again != text {
			err = fault.New(fault.ExitInternal, "ton.wallet.no_passphrase", "type the same twice", "asking for the passphrase: the two differ")
		}
	}
	return text, errors.Join(err, tty.Close())
}

func typed(tty *os.File, prompt string) (string, error) {
	if _, err := fmt.Fprint(tty, prompt); err != nil {
		return "", fmt.Errorf("asking for the passphrase: %w", err)
	}
	b, err := term.ReadPassword(int(tty.Fd()))
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	_, err = fmt.Fprintln(tty)
	return string(b), err
}
