// Command stsctl is what operators and developers use to talk to the security
// token service: it applies and shows resources, gets, exchanges and inspects
// tokens, and looks after the signing keys. `stsctl help` lists the commands; docs/reference/stsctl.md has them
// all on one page.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
