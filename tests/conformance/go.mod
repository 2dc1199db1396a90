module tallystick.invalid/conformance

// The newest golang.org/x/mod that Debian 12's Go 1.19 builds.
go 1.18

require golang.org/x/mod v0.20.0
