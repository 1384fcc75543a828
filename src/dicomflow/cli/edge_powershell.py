"""The texts of `dicomflow edge-install` for Windows, in PowerShell.

Each is one block, which the first failure ends, and run again it changes nothing that is as it should be.
"""

from typing import Final

__all__ = ["CERTIFICATE", "GREENGRASS", "NO_CERTIFICATE", "NUCLEUS_FILES", "SERVICE", "SERVICE_FILES", "UNINSTALL"]

# AWS IoT Greengrass Developer Guide, "Set up a Windows device": components run as a local user whose password the
# nucleus, which is LocalSystem, finds in LocalSystem's own credential manager. A task of LocalSystem's puts it there.
GREENGRASS: Final = """\
# Run this file in PowerShell as an administrator of the device that becomes the edge {thing}:
# powershell -ExecutionPolicy Bypass -Command "Get-Content -Raw {file} | iex"
# The device needs Java 11 or newer and Python 3.11 or newer, installed for all users, both on the machine's Path.
# {secrecy}
& {{
$ErrorActionPreference = 'Stop'
if (-not (Get-Command -Name java -ErrorAction SilentlyContinue)) {{ throw 'install Java 11 or newer first' }}
if (-not (Get-Command -Name 'py', 'python' -ErrorAction SilentlyContinue)) {{
    throw 'install Python 3.11 or newer first, for all users'
}}
if (-not (Get-NetFirewallRule -DisplayName 'dicomflow edge' -ErrorAction SilentlyContinue)) {{
    $rule = @{{ DisplayName = 'dicomflow edge'; Direction = 'Inbound'; Protocol = 'TCP'; LocalPort = {ports} }}
    New-NetFirewallRule @rule -Action Allow | Out-Null
}}
if (Test-Path -Path C:\\greengrass\\v2\\config\\effectiveConfig.yaml) {{
    Write-Output 'the nucleus is installed already, and stays as it is'
    Start-Service -Name greengrass
    return
}}
{certificate}$folder = New-Item -ItemType Directory -Path (Join-Path $env:TEMP ([Guid]::NewGuid()))
try {{
    icacls.exe $folder.FullName /inheritance:r /grant '*S-1-5-18:(OI)(CI)F' '*S-1-5-32-544:(OI)(CI)F' | Out-Null
    if ($LASTEXITCODE -ne 0) {{ throw "icacls failed with code $LASTEXITCODE" }}
    $zip = Join-Path $folder 'nucleus.zip'
    $from = 'https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-{nucleus}.zip'
    Invoke-WebRequest -UseBasicParsing -Uri $from -OutFile $zip{proxy}
    if ((Get-FileHash -Algorithm SHA256 -Path $zip).Hash -ne '{digest}') {{ throw 'the nucleus has another digest' }}
    Expand-Archive -Path $zip -DestinationPath (Join-Path $folder 'GreengrassInstaller')
    $bytes = New-Object byte[] 24
    [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($bytes)
    $password = 'aA1!' + [Convert]::ToBase64String($bytes).Replace('/', '_').Replace('+', '-').TrimEnd('=')
    $secure = ConvertTo-SecureString -String $password -AsPlainText -Force
    if (Get-LocalUser -Name ggc_user -ErrorAction SilentlyContinue) {{
        Set-LocalUser -Name ggc_user -Password $secure -PasswordNeverExpires $true
    }} else {{
        New-LocalUser -Name ggc_user -Password $secure -PasswordNeverExpires -Description 'runs the edge' | Out-Null
        Add-LocalGroupMember -SID S-1-5-32-545 -Member ggc_user
    }}
    $arguments = "/generic:ggc_user /user:ggc_user /pass:$password"
    $keep = New-ScheduledTaskAction -Execute cmdkey.exe -Argument $arguments
    Register-ScheduledTask -TaskName dicomflow-ggc-user -User 'NT AUTHORITY\\SYSTEM' -Action $keep -Force | Out-Null
    try {{
        Start-ScheduledTask -TaskName dicomflow-ggc-user
        foreach ($try in 1..60) {{
            Start-Sleep -Milliseconds 500
            $result = (Get-ScheduledTaskInfo -TaskName dicomflow-ggc-user).LastTaskResult
            if ($result -notin 267009, 267011) {{ break }} # runs, has not run yet
        }}
        if ($result -ne 0) {{ throw "the password of ggc_user cannot be kept for the nucleus: code $result" }}
    }} finally {{
        Unregister-ScheduledTask -TaskName dicomflow-ggc-user -Confirm:$false
    }}
    $root = 'https://www.amazontrust.com/repository/AmazonRootCA1.pem'
    Invoke-WebRequest -UseBasicParsing -Uri $root -OutFile C:\\greengrass\\v2\\rootCA.pem{proxy}
    $settings = @'
{nucleus_settings}
'@
    [IO.File]::WriteAllText("$folder\\nucleus.yaml", $settings)
    java '-Droot=C:\\greengrass\\v2' '-Dlog.store=FILE' -jar "$folder\\GreengrassInstaller\\lib\\Greengrass.jar" `
        --init-config "$folder\\nucleus.yaml" --component-default-user ggc_user --setup-system-service true | Out-Host
    if ($LASTEXITCODE -ne 0) {{ throw "the nucleus's installer failed with code $LASTEXITCODE" }}
}} finally {{
    Remove-Item -Recurse -Force -Path $folder
}}
Start-Service -Name greengrass
}}
"""

SERVICE: Final = """\
# Run this file in PowerShell as an administrator of the machine that becomes the edge {thing}, with
# dicomflow-edge-windows-amd64.zip beside: powershell -ExecutionPolicy Bypass -Command "Get-Content -Raw {file} | iex"
# `python -m infra.greengrass` makes the zip; the machine needs Python 3.11 or newer, installed for all users, and no
# internet but S3. Run again it upgrades to the zip beside; settings changed on the machine, key and spool stay.
# {secrecy}
& {{
$ErrorActionPreference = 'Stop'
function Invoke-Program([string] $Program, [string[]] $Arguments) {{
    & $Program @Arguments | Out-Host
    if ($LASTEXITCODE -ne 0) {{ throw "$Program failed with code $LASTEXITCODE" }}
}}
$data = "$env:ProgramData\\dicomflow"
$installed = Get-Service -Name dicomflow-edge -ErrorAction SilentlyContinue
if ($installed) {{ Stop-Service -Name dicomflow-edge }}
Expand-Archive -Force -Path dicomflow-edge-windows-amd64.zip -DestinationPath C:\\dicomflow
New-Item -ItemType Directory -Force -Path "$data\\spool" | Out-Null
Invoke-Program icacls.exe @($data, '/inheritance:r', '/grant', '*S-1-5-18:(OI)(CI)F', '*S-1-5-32-544:(OI)(CI)F')
Invoke-Program C:\\dicomflow\\python.cmd @('install', $data)
$python = "$data\\environments\\$(Get-Content -Path "$data\\current")\\Scripts\\python.exe"
{certificate}$settings = @'
{settings}'@
$written = if (Test-Path -Path "$data\\edge.toml.sha256") {{ Get-Content -Path "$data\\edge.toml.sha256" }}
$there = if (Test-Path -Path "$data\\edge.toml") {{ (Get-FileHash -Path "$data\\edge.toml").Hash }}
if (-not $there -or $there -eq $written) {{
    [IO.File]::WriteAllText("$data\\edge.toml", $settings)
    (Get-FileHash -Path "$data\\edge.toml").Hash | Set-Content -Path "$data\\edge.toml.sha256"
}} elseif ([IO.File]::ReadAllText("$data\\edge.toml") -ne $settings) {{
    [IO.File]::WriteAllText("$data\\edge.toml.new", $settings)
    Write-Output "edge.toml was changed on this machine and stays; what config.py says now is in $data\\edge.toml.new"
}}
if (-not [Environment]::GetEnvironmentVariable('AWS_REGION', 'Machine')) {{
    [Environment]::SetEnvironmentVariable('AWS_REGION', '{region}', 'Machine')
}}
Invoke-Program $python @('-m', 'pywin32_postinstall', '-silent', '-install')
$step = if ($installed) {{ 'update' }} else {{ 'install' }}
Invoke-Program $python @('C:\\dicomflow\\windows_service.py', '--startup', 'auto', $step)
$restarts = 'restart/5000/restart/5000/restart/60000'
Invoke-Program sc.exe @('failure', 'dicomflow-edge', 'reset=', '86400', 'actions=', $restarts)
if (-not (Get-NetFirewallRule -DisplayName 'dicomflow edge' -ErrorAction SilentlyContinue)) {{
    $rule = @{{ DisplayName = 'dicomflow edge'; Direction = 'Inbound'; Protocol = 'TCP'; LocalPort = {ports} }}
    New-NetFirewallRule @rule -Action Allow | Out-Null
}}
Start-Service -Name dicomflow-edge
}}
"""

NO_CERTIFICATE: Final = """\
    throw ('{thing} has its certificate on another device, or in a file written before; for another certificate: ' +
        'dicomflow edge-remove {name} --force, then dicomflow edge-install {name}')
"""

CERTIFICATE: Final = """\
if (-not (Test-Path -Path "$data\\device.pem")) {{
{install}}}
"""

# Whoever may log on reads what is below C:\ by default: the key's file is closed before it has the key.
NUCLEUS_FILES: Final = """\
    New-Item -ItemType Directory -Force -Path C:\\greengrass\\v2 | Out-Null
    New-Item -ItemType File -Force -Path C:\\greengrass\\v2\\privKey.key | Out-Null
    icacls.exe C:\\greengrass\\v2\\privKey.key /inheritance:r /grant '*S-1-5-18:F' '*S-1-5-32-544:F' | Out-Null
    if ($LASTEXITCODE -ne 0) {{ throw "icacls failed with code $LASTEXITCODE" }}
    $key = @'
{key}'@
    [IO.File]::WriteAllText('C:\\greengrass\\v2\\privKey.key', $key)
    $certificate = @'
{pem}'@
    [IO.File]::WriteAllText('C:\\greengrass\\v2\\thingCert.crt', $certificate)
"""

SERVICE_FILES: Final = """\
    $key = @'
{key}'@
    [IO.File]::WriteAllText("$data\\device.key", $key)
    $certificate = @'
{pem}'@
    [IO.File]::WriteAllText("$data\\device.pem", $certificate)
"""

UNINSTALL: Final = """\
# Run this file in PowerShell as an administrator of the machine that was the edge {thing}. What its spool holds stays.
& {{
$ErrorActionPreference = 'Stop'
foreach ($service in 'dicomflow-edge', 'greengrass') {{
    if (Get-Service -Name $service -ErrorAction SilentlyContinue) {{
        Stop-Service -Name $service
        sc.exe delete $service | Out-Host
        if ($LASTEXITCODE -ne 0) {{ throw "the service $service cannot be removed: code $LASTEXITCODE" }}
    }}
}}
Get-NetFirewallRule -DisplayName 'dicomflow edge' -ErrorAction SilentlyContinue | Remove-NetFirewallRule
$data = "$env:ProgramData\\dicomflow"
$own = @('environments', 'current', 'edge.toml', 'edge.toml.new', 'edge.toml.sha256', 'edge.pid') +
    @('device.pem', 'device.key') | ForEach-Object {{ "$data\\$_" }}
$nucleus = Get-ChildItem -Path C:\\greengrass\\v2 -ErrorAction SilentlyContinue | Where-Object {{ $_.Name -ne 'work' }}
foreach ($path in @('C:\\dicomflow') + $own + @($nucleus | ForEach-Object {{ $_.FullName }})) {{
    if ($path -and (Test-Path -Path $path)) {{ Remove-Item -Recurse -Force -Path $path }}
}}
if (Get-LocalUser -Name ggc_user -ErrorAction SilentlyContinue) {{ Remove-LocalUser -Name ggc_user }}
foreach ($spool in "$data\\spool", 'C:\\greengrass\\v2\\work\\DIMSEtoS3\\spool') {{
    if (Test-Path -Path $spool) {{
        Write-Output "images that were not delivered may be in ${{spool}}: delete it when none is wanted"
    }}
}}
}}
"""
